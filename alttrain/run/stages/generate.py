"""Stage generate: benchmark prompts -> evaluation/<benchmark>/generations.jsonl.

Prompts go to the engine in chunks. An engine in this process decodes a chunk together, and each chunk is written whole.
After an interruption, an incomplete chunk is decoded again and only its missing rows are appended, so the file has the
same bytes as without the interruption.

A server's answers are written as they arrive, and sorted at the end. Prompts that the server refused are among the
generations, as errors. The same command asks for these and for prompts without an answer again. If the server refuses
almost all prompts, the run fails.
"""

import logging
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from alttrain import records
from alttrain.config import RunError
from alttrain.evaluation import Benchmark
from alttrain.generation.engine import Engine, Prompt, Written, unwatched
from alttrain.llm import NEARLY_ALL, Failure
from alttrain.records import DamagedError, Example, Generation
from alttrain.run.assembly import Run
from alttrain.run.folder import evaluation_folder
from alttrain.run.progress import bar
from alttrain.run.session import Session, free
from alttrain.run.stages.train import changed, writer

log = logging.getLogger(__name__)

Sampled = tuple[Example, int]
"""A prompt and the number of its sample."""
Name = tuple[str, int]
"""A prompt's id and the number of its sample."""


def generate(run: Run, session: Session) -> None:
    """Generate what is missing, with one engine for all benchmarks. Raises RunError if a part has no answers."""
    work = [(benchmark, chunks) for benchmark in run.benchmarks if (chunks := missing(run, benchmark))]
    if not work:
        return
    trained = run.trained if run.training.trains else None
    if trained is not None:
        check_trained(run)
    with session.engine(trained, run.protocol.quantization) as engine:
        lacking = [_generate(session, engine, benchmark, chunks) for benchmark, chunks in work]
    free()
    if any(lacking):
        raise RunError(
            "\n".join([*filter(None, lacking), "what was answered is kept; the same command asks for the rest"])
        )


def check_trained(run: Run) -> None:
    """Raise FileNotFoundError if the run has trained nothing yet, and RunError if what it trained was changed."""
    if not (any(run.trained.glob("*.safetensors")) and (run.folder / "train.json").exists()):
        raise FileNotFoundError(
            f"{run.trained} holds nothing trained; run the train stage first (stages=[rewrite,train,generate])"
        )
    if names := changed(run, "files"):
        raise RunError(
            f"{run.folder / names[0]} is not what was trained; the train stage trains again (stages=[train])"
        )


def _sampled(run: Run, benchmark: Benchmark) -> list[Sampled]:
    """Return every prompt of a benchmark once for each sample of the protocol."""
    samples = range(run.protocol.decoding_for(benchmark).samples)
    return [(row, sample) for row in benchmark.examples for sample in samples]


def missing(run: Run, benchmark: Benchmark) -> list[list[Sampled]]:
    """Return the chunks of a benchmark that are incomplete. Changes no file, since another process may use the run."""
    path, rows = evaluation_folder(run, benchmark) / "generations.jsonl", _sampled(run, benchmark)
    done = _answered(path)
    if strange := done - {(row.id, sample) for row, sample in rows}:
        raise DamagedError(path, f"holds a row that the benchmark has not, {min(strange)!r}")
    size = run.generation.chunk
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [chunk for chunk in chunks if any((row.id, sample) not in done for row, sample in chunk)]


def _answered(path: Path) -> set[Name]:
    """Return the prompts that were answered. Refused ones do not count."""
    refused = b'"finish": "error"'  # no text can contain it: JSON escapes quotes in a text
    return {name for name, line in records.named_lines(path) if refused not in line}


def _refused(path: Path) -> dict[Name, Generation]:
    rows = records.iterate_rows(path, Generation) if path.exists() else ()
    return {(row.id, row.sample): row for row in rows if row.finish == "error"}


def _generate(session: Session, engine: Engine, benchmark: Benchmark, chunks: list[list[Sampled]]) -> str:
    """Generate the missing answers of a benchmark. Returns a line about prompts without an answer; "" if all have."""
    run, folder = session.run, evaluation_folder(session.run, benchmark)
    if not (folder / "fingerprint.json").exists():
        records.write_json(folder / "fingerprint.json", run.evaluation_fingerprint(benchmark))
    path = folder / "generations.jsonl"
    records.repair_rows(path)
    done, refused, by = _answered(path), _refused(path), writer(run)
    if refused:  # ask again; without a reply, the old refusal stays
        with records.replacing(path) as file:
            file.writelines(line for name, line in records.named_lines(path) if name not in refused)
    if engine.streams:
        chunks = [[(row, sample) for row, sample in chunk if (row.id, sample) not in done] for chunk in chunks]
    unanswered = list[str]()
    started, tokens, total = time.monotonic(), 0, sum(map(len, chunks))
    with bar(benchmark.name, total) as advance:
        for chunk in chunks:
            rows = list[Generation]()
            for name, answer in _answers(session, engine, benchmark, chunk, advance):
                found = refused.get(name, answer) if isinstance(answer, Failure) else answer
                if isinstance(found, Failure):
                    unanswered.append(found.reason)
                elif name not in done:
                    tokens += found.thought_tokens + found.answer_tokens
                    rows.append(found)
                if rows and engine.streams:
                    records.append_rows(path, [rows.pop()], by)
            records.append_rows(path, rows, by)
    asked = _sampled(run, benchmark)
    places = {(row.id, sample): place for place, (row, sample) in enumerate(asked)}
    records.sort_rows(path, records.GenerationKey, lambda row: places[row.id, row.sample])
    log.info("generate  %s: %d prompts, %d tokens in %.0f s", benchmark.name, total, tokens, time.monotonic() - started)
    if unanswered:
        return f"{benchmark.name}: {len(unanswered)} of {total} prompts have no answer yet, because {unanswered[0]}"
    reasons = [row.error for row in _refused(path).values()]
    if reasons and len(reasons) >= NEARLY_ALL * len(asked):
        why = f"{reasons[0]} at {run.generation.base_url}"
        return f"{benchmark.name}: {len(reasons)} of {len(asked)} prompts have no answer, because {why}"
    return ""


def _answers(
    session: Session, engine: Engine, benchmark: Benchmark, chunk: list[Sampled], advance: Callable[[int], None]
) -> Iterator[tuple[Name, Generation | Failure]]:
    """Yield a generation for each prompt of a chunk, or why there is none.

    The model answers the earlier turns of a dialogue first. Thought and answer are split once, for all judges.
    """
    run, renderer = session.run, session.renderer
    template, mode = run.backbone.template, run.training.thought
    earlier: list[tuple[str, ...]] = [() for _ in chunk]
    failed: dict[int, Failure] = {}

    def ask(due: list[int], advance: Callable[[int], None] = unwatched) -> Iterator[tuple[int, Written | Failure]]:
        """Yield the answer to the next turn of each of these rows."""
        prompts = [_prompt(run, renderer, benchmark, *chunk[number], earlier[number]) for number in due]
        left = dict.fromkeys(due, Failure("the server was given up", final=False))
        for place, found in engine.generate(prompts, run.protocol.decoding_for(benchmark), advance):
            left.pop(due[place], None)
            yield due[place], found
        yield from left.items()

    before = [len(_turns(run, benchmark, row)) - 1 for row, _ in chunk]
    for turn in range(max(before, default=0)):
        for number, found in ask([n for n in range(len(chunk)) if turn < before[n] and n not in failed]):
            if isinstance(found, Failure):
                failed[number] = found
            else:
                earlier[number] += (template.history(found.text, mode),)
    going = [number for number in range(len(chunk)) if number not in failed]
    for number, found in chain(ask(going, advance), failed.items()):
        row, sample = chunk[number]
        if isinstance(found, Failure) and not found.final:
            yield (row.id, sample), found
            continue
        text, error = ("", found.reason) if isinstance(found, Failure) else (found.text, "")
        thought, answer, closed = template.split(text, mode)
        generation = Generation(
            id=row.id,
            prompt=row.prompt,
            label=row.label,
            category=row.category,
            gold=row.gold,
            text=text,
            thought=thought,
            answer=answer,
            closed=closed and isinstance(found, Written),
            finish=found.finish if isinstance(found, Written) else "error",
            thought_tokens=len(renderer.encode(thought)) if thought else 0,
            answer_tokens=len(renderer.encode(answer)) if answer else 0,
            sample=sample,
            earlier=tuple(turn.strip() for turn in earlier[number]),
            error=error,
            turns=row.turns,
            goal=row.goal,
        )
        yield (row.id, sample), generation


def _turns(run: Run, benchmark: Benchmark, row: Example) -> tuple[str, ...]:
    """Return the user's turns: those of the row's dialogue, those that the structure inserts, and the prompt."""
    message = benchmark.asked(row)
    return (*row.turns, *run.structure.turns_before(message), run.structure.prompt(message))


def _prompt(
    run: Run, renderer: Any, benchmark: Benchmark, row: Example, sample: int, answers: tuple[str, ...]
) -> Prompt:
    """Return the prompt of the turn that follows these answers."""
    text = prompt_text(run, renderer, benchmark, row, answers)
    ids = renderer.encode(text)
    turn = "" if len(answers) == len(_turns(run, benchmark, row)) - 1 else f"@{len(answers)}"
    cut_at = run.protocol.decoding_for(benchmark).cut_at(run.backbone.context_length)
    return Prompt(ids, text, f"{row.id}#{sample}{turn}", None if cut_at is None else max(1, cut_at - len(ids)))


def prompt_text(
    run: Run, renderer: Any, benchmark: Benchmark, row: Example, answers: tuple[str, ...] | None = None
) -> str:
    """Render a benchmark's prompt with the benchmark's form, the structure's form and a system prompt.

    `answers` are the model's answers to the turns before. None renders the last turn without any.
    """
    systems = (run.structure.system, run.method.evaluation_prompt, run.protocol.system_prompt_for(benchmark))
    system = next((one for one in systems if one is not None), None)
    turns = _turns(run, benchmark, row)
    at = len(turns) - 1 if answers is None else len(answers)
    in_form = at < len(row.turns) and not run.structure.turns_before("")
    user = run.structure.prompt(turns[at]) if in_form else turns[at]
    return renderer.prompt_text(  # type: ignore[no-any-return]
        user, run.training.thought, system=system, turns=turns[:at], answers=answers or ()
    )
