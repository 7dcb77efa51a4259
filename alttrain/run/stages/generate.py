"""Stage generate: benchmark prompts -> evaluation/<benchmark>/generations.jsonl.

Prompts go to the engine in chunks. An engine in this process decodes a chunk together, and each chunk is written whole.
After an interruption, an incomplete chunk is decoded again and only its missing rows are appended, so the file has the
same bytes as without the interruption.

A server's answers are written as they arrive, and sorted at the end. Prompts without an answer are in
generation_errors.jsonl. Prompts that the server refused are among the generations, as errors. The same command asks for
both again. If the server refuses almost all prompts, the run fails.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from alttrain.config import RunError
from alttrain.evaluation import Benchmark
from alttrain.generation.engine import Engine, Prompt, Written, unwatched
from alttrain.llm import NEARLY_ALL, Failure
from alttrain.records import (
    DamagedError,
    Example,
    Generation,
    GenerationKey,
    append_rows,
    iterate_rows,
    named_lines,
    repair_rows,
    replacing,
    sort_rows,
    write_json,
    write_rows,
)
from alttrain.run.assembly import Run
from alttrain.run.folder import evaluation_folder
from alttrain.run.progress import bar
from alttrain.run.session import Session, free
from alttrain.run.stages.train import spoiled, writer

log = logging.getLogger(__name__)

Sampled = tuple[Example, int]
"""A prompt and the number of its sample."""


@dataclass(frozen=True)
class NotGenerated:
    """A prompt without an answer yet, and the reason; a row of generation_errors.jsonl."""

    id: str
    sample: int
    reason: str


def missing(run: Run, benchmark: Benchmark) -> list[list[Sampled]]:
    """Return the chunks of a benchmark that are incomplete. Changes no file, since another process may use the run."""
    path, rows = evaluation_folder(run, benchmark) / "generations.jsonl", _sampled(run, benchmark)
    done = _answered(path)
    if strange := done - {(row.id, sample) for row, sample in rows}:
        raise DamagedError(path, f"holds a row that the benchmark has not, {min(strange)!r}")
    size = run.generation.chunk
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [chunk for chunk in chunks if any((row.id, sample) not in done for row, sample in chunk)]


def _answered(path: Path) -> set[tuple[str, int]]:
    """Return the (id, sample) of answered prompts. Refused ones do not count."""
    refused = b'"finish": "error"'  # no text can contain it: JSON escapes quotes in a text
    return {name for name, line in named_lines(path) if refused not in line}


def _rows(path: Path) -> Iterator[Generation]:
    return iterate_rows(path, Generation) if path.exists() else iter(())


def generate(run: Run, session: Session) -> None:
    """Generate what is missing, with one engine for all benchmarks. Raises RunError if a part has no answers."""
    work = [(benchmark, chunks) for benchmark in run.benchmarks if (chunks := missing(run, benchmark))]
    if not work:
        return
    trained = run.trained if run.training.trains else None
    if trained is not None and not (any(trained.glob("*.safetensors")) and (run.folder / "train.json").exists()):
        raise FileNotFoundError(f"{trained} holds nothing trained; run the train stage first")
    if trained is not None and (name := spoiled(run)):
        raise RunError(f"{run.folder / name} is not what was trained; the train stage trains again (stages=[train])")
    lacking: list[str] = []
    with session.engine(trained, run.protocol.quantization) as engine:
        for benchmark, chunks in work:
            lacking += _generate(run, session, engine, benchmark, chunks)
    free()
    if lacking:
        raise RunError("\n".join([*lacking, "what was answered is kept; the same command asks for the rest"]))


def _generate(
    run: Run, session: Session, engine: Engine, benchmark: Benchmark, chunks: list[list[Sampled]]
) -> list[str]:
    """Generate the missing answers of a benchmark. Returns a line about prompts without an answer, if there are any."""
    folder = evaluation_folder(run, benchmark)
    if not (folder / "fingerprint.json").exists():
        write_json(folder / "fingerprint.json", run.evaluation_fingerprint(benchmark))
    path = folder / "generations.jsonl"
    repair_rows(path)
    done, errors, by = _answered(path), list[NotGenerated](), writer(run)
    refused = {(row.id, row.sample): row for row in _rows(path) if row.finish == "error"}
    if refused:  # ask again; without a reply, the old refusal stays
        with replacing(path) as file:
            file.writelines(line for name, line in named_lines(path) if name not in refused)
    started, tokens, total = time.monotonic(), 0, sum(map(len, chunks))
    with bar(benchmark.name, total) as advance:
        for chunk in chunks:
            if engine.streams:
                chunk = [(row, sample) for row, sample in chunk if (row.id, sample) not in done]
            rows = list[Generation]()
            for number, found in _answers(run, session.renderer, engine, benchmark, chunk, advance):
                row, sample = chunk[number]
                if isinstance(found, NotGenerated):
                    found = refused.get((row.id, sample), found)
                if isinstance(found, NotGenerated):
                    errors.append(found)
                elif (row.id, sample) not in done:
                    tokens += found.thought_tokens + found.answer_tokens
                    rows.append(found)
                    if engine.streams:
                        append_rows(path, [rows.pop()], by)
            append_rows(path, rows, by)
    if engine.streams:
        places = {(row.id, sample): place for place, (row, sample) in enumerate(_sampled(run, benchmark))}
        sort_rows(path, GenerationKey, lambda row: places[row.id, row.sample])
    errors_path = folder / "generation_errors.jsonl"
    errors_path.unlink(missing_ok=True)
    log.info("generate  %s: %d prompts, %d tokens in %.0f s", benchmark.name, total, tokens, time.monotonic() - started)
    if errors:
        write_rows(errors_path, errors)
        return [f"{benchmark.name}: {len(errors)} of {total} prompts have no answer yet, because {errors[0].reason}"]
    reasons = [row.error for row in _rows(path) if row.finish == "error"]
    asked = len(_sampled(run, benchmark))
    if reasons and len(reasons) >= NEARLY_ALL * asked:
        server = getattr(run.generation, "base_url", "the server that was started")
        return [f"{benchmark.name}: {len(reasons)} of {asked} prompts have no answer, because {reasons[0]} at {server}"]
    return []


def _sampled(run: Run, benchmark: Benchmark) -> list[Sampled]:
    """Return every prompt of a benchmark once for each sample of the protocol."""
    samples = range(run.protocol.decoding_for(benchmark).samples)
    return [(row, sample) for row in benchmark.examples for sample in samples]


def _answers(
    run: Run, renderer: Any, engine: Engine, benchmark: Benchmark, chunk: Sequence[Sampled], advance: Any
) -> Iterator[tuple[int, Generation | NotGenerated]]:
    """Yield (number, result) for each prompt of a chunk: a generation, or the reason why there is none.

    The model answers the earlier turns of a dialogue first.
    """
    earlier: list[tuple[str, ...]] = [() for _ in chunk]
    failed: dict[int, Failure] = {}

    def ask(due: list[int], advance: Any = unwatched) -> Iterator[tuple[int, Written | Failure]]:
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
                earlier[number] += (run.backbone.template.history(found.text, run.training.thought),)
    going = [number for number in range(len(chunk)) if number not in failed]
    for number, found in chain(ask(going, advance), failed.items()):
        yield number, _record(run, renderer, *chunk[number], found, earlier[number])


def _record(
    run: Run, renderer: Any, row: Example, sample: int, found: Written | Failure, earlier: tuple[str, ...]
) -> Generation | NotGenerated:
    """Return the engine's output as a record. Thought and answer are split once, for all judges."""
    finish: Literal["stop", "length", "error"]
    if not isinstance(found, Failure):
        text, finish, error = found.text, found.finish, ""
    elif found.final:
        text, finish, error = "", "error", found.reason
    else:
        return NotGenerated(row.id, sample, found.reason)
    thought, answer, closed = run.backbone.template.split(text, run.training.thought)
    return Generation(
        id=row.id,
        prompt=row.prompt,
        label=row.label,
        category=row.category,
        gold=row.gold,
        text=text,
        thought=thought,
        answer=answer,
        closed=closed and finish != "error",
        finish=finish,
        thought_tokens=len(renderer.encode(thought)) if thought else 0,
        answer_tokens=len(renderer.encode(answer)) if answer else 0,
        sample=sample,
        earlier=tuple(answer.strip() for answer in earlier),
        error=error,
        turns=row.turns,
        goal=row.goal,
    )


def _prompt(
    run: Run, renderer: Any, benchmark: Benchmark, row: Example, sample: int, answers: tuple[str, ...]
) -> Prompt:
    """Return the prompt of the turn that follows these answers."""
    text = prompt_text(run, renderer, benchmark, row, answers)
    ids = renderer.encode(text)
    turn = "" if len(answers) == len(_turns(run, benchmark, row)) - 1 else f"@{len(answers)}"
    cut_at = run.protocol.decoding_for(benchmark).cut_at(run.backbone.context_length)
    return Prompt(ids, text, f"{row.id}#{sample}{turn}", None if cut_at is None else max(1, cut_at - len(ids)))


def _turns(run: Run, benchmark: Benchmark, row: Example) -> tuple[str, ...]:
    """Return the user's turns: those of the row's dialogue, those that the structure inserts, and the prompt."""
    message = benchmark.asked(row)
    return (*row.turns, *run.structure.turns_before(message), run.structure.prompt(message))


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


def longest_prompt(run: Run, renderer: Any, benchmark: Benchmark) -> int:
    """Return the tokens of a benchmark's longest prompt.

    Raises RunError if the context cannot hold a prompt and its answer.
    """
    rows, where = benchmark.examples, f"benchmark {benchmark.name}"
    lengths = [len(renderer.encode(prompt_text(run, renderer, benchmark, row))) for row in rows]
    decoding, key = run.protocol.decoding_for(benchmark), run.protocol.key_for(benchmark, "max_new_tokens")
    if (cut_at := decoding.cut_at(run.backbone.context_length)) is not None:
        context = (run.protocol.key_for(benchmark, "context"), cut_at)
        refuse_too_long(run, where, rows, lengths, 1, "one token of response", context)
    else:
        cut = f", or set {key.removesuffix('max_new_tokens')}context=backbone to cut responses there"
        refuse_too_long(run, where, rows, lengths, decoding.max_new_tokens, key, remedy=cut)
    return max(lengths, default=0)


def refuse_too_long(
    run: Run,
    where: str,
    rows: Sequence[Example],
    lengths: Sequence[int],
    room: int,
    room_name: str,
    context: tuple[str, int] | None = None,
    remedy: str = "",
) -> None:
    """Raise RunError, naming the first row, if a prompt and `room` more tokens exceed the context.

    `context` is (config key, limit in tokens); None uses the backbone's.
    """
    key, limit = context or ("backbone.context_length", run.backbone.context_length)
    long = [(row, length) for row, length in zip(rows, lengths, strict=True) if length + room > limit]
    if long:
        row, length = long[0]
        others = f" (and {len(long) - 1} more rows like it)" if len(long) > 1 else ""
        raise RunError(
            f"{where}, row {row.id} ({row.source}): the prompt has {length} tokens, and with {room} more "
            f"({room_name}) it passes {key}={limit}; shorten or leave out the row{others}{remedy}"
        )
