"""Stage generate: benchmark prompts -> evaluation/<benchmark>/generations.jsonl, appended chunk by chunk.

A chunk is decoded together and written whole. A chunk that was cut short is decoded again, and only the rows that are
missing are appended, so an interrupted run ends with the bytes of an uninterrupted one.
"""

import logging
import time
from dataclasses import asdict, replace
from typing import Any

from alttrain.evaluation import Benchmark
from alttrain.generation.kept import KeptDecoder
from alttrain.records import Example, Generation, append_rows, iterate_rows, read_rows, repair_rows
from alttrain.run.assembly import Run
from alttrain.run.folder import evaluation_folder, open_evaluation
from alttrain.run.progress import bar
from alttrain.run.session import Session, free

log = logging.getLogger(__name__)

AS_IT_IS = "{prompt}"
Sampled = tuple[Example, int]
"""A prompt, and which of its samples."""


def missing(run: Run, benchmark: Benchmark) -> list[list[Sampled]]:
    """The chunks of a benchmark that are not all generated."""
    path = evaluation_folder(run, benchmark) / "generations.jsonl"
    repair_rows(path)
    done = (
        {(generation.id, generation.sample) for generation in iterate_rows(path, Generation)}
        if path.exists()
        else set()
    )
    samples = range(run.protocol.decoding.samples)
    rows = [(row, sample) for row in benchmark.rows.examples(None) for sample in samples]
    size = run.generation.chunk
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [chunk for chunk in chunks if any((row.id, sample) not in done for row, sample in chunk)]


def generate(run: Run, session: Session) -> None:
    """Generate what is missing, loading the model once for all benchmarks."""
    work = {benchmark.name: chunks for benchmark in run.benchmarks if (chunks := missing(run, benchmark))}
    if not work:
        return
    trained = run.trained if run.training.trains else None
    if trained is not None and not any(trained.glob("*.safetensors")):
        raise FileNotFoundError(f"{trained} holds nothing trained; run the train stage first")
    decoder = session.decoder(run.generation, trained) if trained else _kept(run, session)
    for benchmark in run.benchmarks:
        if benchmark.name in work:
            _generate(run, session, decoder, benchmark, work[benchmark.name])
    del decoder
    free()


def _kept(run: Run, session: Session) -> KeptDecoder:
    """The decoder of the backbone as it is; what any run of this output folder had it write is at hand."""
    identity = {
        "weights": session.weights.identity,
        "dtype": str(session.dtype(run.generation.dtype)),
        "quantization": run.backbone.quantization,
        "device": session.device,
        "generation": asdict(run.generation),
        "end": session.renderer.end_id,
    }
    folder = run.output_dir / "cache" / "generations"
    return KeptDecoder(lambda: session.decoder(run.generation, None), identity, folder)


def _generate(run: Run, session: Session, decoder: Any, benchmark: Benchmark, chunks: list[list[Sampled]]) -> None:
    path = open_evaluation(run, benchmark) / "generations.jsonl"
    done = {(generation.id, generation.sample) for generation in read_rows(path, Generation)}
    started, tokens, total = time.monotonic(), 0, sum(map(len, chunks))
    with bar(benchmark.name, total) as advance:
        for chunk in chunks:
            earlier = _replay(run, session.renderer, decoder, benchmark, chunk)
            prompts = [
                prompt_ids(run, session.renderer, benchmark, row, answers)
                for (row, _), answers in zip(chunk, earlier, strict=True)
            ]
            names = [f"{row.id}#{sample}" for row, sample in chunk]
            written = decoder.generate(prompts, run.protocol.decoding, names, advance)
            made = [
                to_generation(run, session.renderer, row, sample, ids, answers)
                for (row, sample), ids, answers in zip(chunk, written, earlier, strict=True)
            ]
            append_rows(path, [generation for generation in made if (generation.id, generation.sample) not in done])
            tokens += sum(map(len, written))
    seconds = time.monotonic() - started
    log.info("generate  %s: %d prompts, %d tokens in %.0f s", benchmark.name, total, tokens, seconds)


def _replay(run: Run, renderer: Any, decoder: Any, benchmark: Benchmark, chunk: list[Sampled]) -> list[tuple[str, ...]]:
    """The model's own answers to the earlier turns of each dialogue, turn by turn; a row without turns has none."""
    answers: list[tuple[str, ...]] = [() for _ in chunk]
    for turn in range(max(len(row.turns) for row, _ in chunk)):
        due = [number for number, (row, _) in enumerate(chunk) if turn < len(row.turns)]
        asked = [replace(chunk[n][0], prompt=chunk[n][0].turns[turn], turns=chunk[n][0].turns[:turn]) for n in due]
        prompts = [
            prompt_ids(run, renderer, replace(benchmark, form=AS_IT_IS), row, answers[n])
            for n, row in zip(due, asked, strict=True)
        ]
        names = [f"{chunk[n][0].id}#{chunk[n][1]}@{turn}" for n in due]
        for n, ids in zip(due, decoder.generate(prompts, run.protocol.decoding, names), strict=True):
            answers[n] += (run.backbone.template.split(renderer.decode(ids), run.training.thought)[1],)
    return answers


def prompt_ids(run: Run, renderer: Any, benchmark: Benchmark, row: Example, answers: tuple[str, ...] = ()) -> list[int]:
    """Ids of a benchmark's prompt as this run puts it: the benchmark's form, the structure's, and a system prompt.

    `answers` are the model's to the row's earlier turns.
    """
    system = run.structure.system if run.structure.system is not None else run.protocol.system_prompt
    user = run.structure.prompt(benchmark.asked(row))
    return renderer.prompt(  # type: ignore[no-any-return]
        user, run.training.thought, system=system, turns=row.turns, answers=answers
    )


def to_generation(
    run: Run, renderer: Any, row: Example, sample: int, ids: list[int], earlier: tuple[str, ...]
) -> Generation:
    """Generated ids as a record: thought and answer split once, for every judge."""
    text = renderer.decode(ids)
    thought, answer, closed = run.backbone.template.split(text, run.training.thought)
    thought_tokens = len(renderer.tokenizer.encode(thought, add_special_tokens=False)) if thought else 0
    answer_tokens = len(renderer.tokenizer.encode(answer, add_special_tokens=False)) if answer else 0
    return Generation(
        id=row.id,
        prompt=row.prompt,
        label=row.label,
        category=row.category,
        gold=row.gold,
        text=text,
        thought=thought,
        answer=answer,
        closed=closed,
        finish="stop" if ids[-1] == renderer.end_id else "length",
        thought_tokens=thought_tokens,
        answer_tokens=answer_tokens,
        sample=sample,
        earlier=earlier,
    )
