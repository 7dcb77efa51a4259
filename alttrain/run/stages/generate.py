"""Stage generate: benchmark prompts -> evaluation/<benchmark>/generations.jsonl.

Prompts go to the engine in chunks. An engine in this process decodes a chunk together, and each chunk is written whole.
After an interruption, an incomplete chunk is decoded again and only its missing rows are appended, so the file has the
same bytes as without the interruption. The cuts of a thought follow each other in a chunk, because they begin alike.

A server's answers are written as they arrive, and sorted at the end. Prompts that the server refused are among the
generations, as errors. The same command asks for these and for prompts without an answer again. If the server refuses
almost all prompts, the run fails.

Under an intervention, begun.jsonl has the beginning of each response, of the prompts that the intervention applies to.
It is made once, when the benchmark's own generations, and those of the intervention's source, are complete. Prompts
that the server refused there are left out.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from alttrain import records
from alttrain.config import RunError
from alttrain.evaluation import Benchmark
from alttrain.evaluation.interventions import Cut, InterventionContext
from alttrain.generation.engine import Engine
from alttrain.llm import NEARLY_ALL, Failure
from alttrain.records import DamagedError, Example, Generation
from alttrain.run.asking import (
    NO_ROOM,
    BeginningRow,
    BenchmarkSample,
    Chunk,
    PreparedIntervention,
    SampleKey,
    thought_mode,
)
from alttrain.run.assembly import Run
from alttrain.run.folder import (
    BEGUN_FILE,
    MADE_IN,
    READ_PREFIX,
    evaluation_folder,
    generations_read_by,
    record_weights,
    refuse_other,
)
from alttrain.run.progress import bar
from alttrain.run.session import Session, free_memory
from alttrain.run.stages.train import changed_files, training_checksums

log = logging.getLogger(__name__)


def generate(run: Run, session: Session) -> None:
    """Generate what is missing, with one engine for all benchmarks. Raises RunError if a part has no answers."""
    if not incomplete_benchmarks(run):
        for benchmark in run.intervened_benchmarks:
            if not _missing_sources(run, benchmark):
                _begin(run, benchmark)
        return
    trained = run.trained_folder if run.training.trains else None
    if trained is not None:
        check_trained(run)
    groups = dict[tuple[str | None, ...], list[Benchmark]]()  # the cuts of a benchmark's thoughts, or one alone
    for benchmark in run.all_benchmarks:
        cut = benchmark.intervention
        key = (benchmark.base_name, cut.mode, cut.system) if type(cut) is Cut else (benchmark.name,)
        groups.setdefault(key, []).append(benchmark)
    if run.generation.loads_weights:
        record_weights(run, session.weights)
    with session.engine(trained, run.protocol.quantization) as engine:
        faults = [fault for group in groups.values() for fault in _generate(session, engine, group)]
    free_memory()
    if faults:
        raise RunError("\n".join([*faults, "what was answered is kept; the same command asks for the rest"]))


def check_trained(run: Run) -> None:
    """Raise FileNotFoundError if the run has trained nothing yet, and RunError if what it trained was changed."""
    if not (any(run.trained_folder.glob("*.safetensors")) and (run.folder / "train.json").exists()):
        raise FileNotFoundError(
            f"{run.trained_folder} holds nothing trained; run the train stage first (stages=[rewrite,train,generate])"
        )
    if names := changed_files(run, "files"):
        raise RunError(
            f"{run.folder / names[0]} is not what was trained; the train stage trains again (stages=[train])"
        )


def benchmark_samples(run: Run, benchmark: Benchmark) -> dict[SampleKey, Example]:
    """Return the prompt of each sample of a benchmark; if known, only those that its intervention applies to."""
    samples = range(run.protocol.decoding_for(benchmark).samples)
    prompts = {(row.id, sample): row for row in benchmark.examples for sample in samples}
    begun = evaluation_folder(run, benchmark) / BEGUN_FILE
    if benchmark.intervention is None or not begun.exists():
        return prompts
    applies = {(row.id, row.sample) for row in records.iterate_rows(begun, BeginningRow)}
    return {name: row for name, row in prompts.items() if name in applies}


def _missing_sources(run: Run, benchmark: Benchmark) -> str:
    """Return which generations an intervention reads and still lacks; "" if none. Refused ones are not lacking."""
    due = benchmark_samples(run, benchmark.without_intervention)
    for path in generations_read_by(run, benchmark):
        if lacking := len(due.keys() - {name for name, _ in records.named_lines(path)}):
            return f"{benchmark.name}: {path} lacks {lacking} of {len(due)} generations, which it is made from"
    return ""


def _begin(run: Run, benchmark: Benchmark) -> PreparedIntervention | None:
    """Return how the responses to a benchmark begin; None without an intervention. Writes begun.jsonl if it is absent.

    The generations that it is made from must be complete. Raises RunError if they are not those that it was made from.
    """
    if (intervention := benchmark.intervention) is None:
        return None
    folder, files = evaluation_folder(run, benchmark), generations_read_by(run, benchmark)
    path, fingerprint = folder / BEGUN_FILE, folder / "fingerprint.json"
    recorded = records.read_json(fingerprint) if fingerprint.exists() else None
    is_new = recorded is None or not path.exists()  # a kill may have come before it was known what made it
    generations = [_generations(file, lambda row: row.finish != "error") for file in files] or [{}]
    plain, source = generations[0], generations[-1]
    context = InterventionContext(run.backbone.template, thought_mode(run, benchmark), source)
    rows = benchmark_samples(run, benchmark.without_intervention)
    readable = plain.keys() & source.keys() if intervention.reads else rows.keys()
    answered = {name: row for name, row in rows.items() if name in readable}
    beginnings = {} if is_new else {(row.id, row.sample): row for row in records.iterate_rows(path, BeginningRow)}
    for name, row in answered.items() if is_new else ():
        if (beginning := intervention.begin(row, plain.get(name), context)) is not None:
            message = intervention.message(benchmark.message(row), row, context)
            beginnings[name] = BeginningRow(**vars(beginning), id=name[0], sample=name[1], message=message)
    read = plain.keys() | source.keys() if intervention.reads_others else beginnings.keys()
    hashes = {f"{READ_PREFIX}{file.parents[2].name}": _hash(file, read) for file in files}
    current = run.evaluation_fingerprint(benchmark) | hashes
    if recorded:
        recorded.pop(MADE_IN, None)
        refuse_other(folder, recorded, current, f"delete {folder}, so that it is made again")
    if is_new:
        records.write_rows(path, beginnings.values())
        records.write_json(fingerprint, current)
        level, refused = logging.INFO if beginnings else logging.WARNING, len(rows) - len(answered)
        note = f"; the server refused {refused} of them without it" if refused else ""
        log.log(level, "generate  %s applies to %d of %d prompts%s", benchmark.name, len(beginnings), len(rows), note)
    return PreparedIntervention(intervention, context, beginnings, plain)


def _generations(path: Path, is_wanted: Callable[[Generation], bool]) -> dict[SampleKey, Generation]:
    """Return the wanted generations of a file by name; none if it is absent."""
    rows = records.iterate_rows(path, Generation) if path.exists() else ()
    return {(row.id, row.sample): row for row in rows if is_wanted(row)}


def _is_refused(row: Generation) -> bool:
    """Return whether a server refused a prompt, which is asked again."""
    return row.finish == "error" and row.error != NO_ROOM


def _hash(path: Path, names: Container[SampleKey]) -> str:
    """Return the SHA-256 of the lines with these names."""
    digest = hashlib.sha256()
    for name, line in records.named_lines(path):
        if name in names:
            digest.update(line)
    return digest.hexdigest()


def incomplete_benchmarks(run: Run) -> list[Benchmark]:
    """Return the benchmarks that lack answers."""
    return [benchmark for benchmark in run.all_benchmarks if incomplete_chunks(run, benchmark)]


def incomplete_chunks(run: Run, *group: Benchmark) -> list[list[BenchmarkSample]]:
    """Return the chunks that are incomplete, of a benchmark or of several that are answered together.

    Changes no file, since another process may use the run.
    """
    positions = {row.id: position for position, row in enumerate(group[0].examples)}
    done, due = set[tuple[str, SampleKey]](), list[BenchmarkSample]()
    for benchmark in group:
        rows, answered = benchmark_samples(run, benchmark), _answered(run, benchmark)
        if unknown := answered - rows.keys():
            path = evaluation_folder(run, benchmark) / "generations.jsonl"
            raise DamagedError(path, f"holds a row that the benchmark has not, {min(unknown)!r}")
        done |= {(benchmark.name, name) for name in answered}
        due += [(benchmark, row, sample) for (_, sample), row in rows.items()]
    due.sort(key=lambda prompt: (positions[prompt[1].id], prompt[2]))
    chunks = [due[start : start + run.generation.chunk] for start in range(0, len(due), run.generation.chunk)]
    return [chunk for chunk in chunks if any((each.name, (row.id, sample)) not in done for each, row, sample in chunk)]


def count_unanswered(run: Run, benchmark: Benchmark) -> int:
    """Return how many of a benchmark's prompts have no answer."""
    return len(benchmark_samples(run, benchmark)) - len(_answered(run, benchmark))


def _answered(run: Run, benchmark: Benchmark) -> set[SampleKey]:
    """Return the prompts with an answer, and those that can never have one (`NO_ROOM`).

    Refused ones are asked again.
    """
    refused = b'"finish": "error"'  # no text can contain it: JSON escapes quotes in a text
    no_room = f'"error": "{NO_ROOM}"'.encode()
    lines = records.named_lines(evaluation_folder(run, benchmark) / "generations.jsonl")
    return {name for name, line in lines if refused not in line or no_room in line}


def _generate(session: Session, engine: Engine, group: Sequence[Benchmark]) -> list[str]:
    """Generate the missing answers of benchmarks that are answered together. Returns lines about those without one."""
    run = session.run
    if faults := [fault for benchmark in group if (fault := _missing_sources(run, benchmark))]:
        return faults
    interventions = {benchmark.name: _begin(run, benchmark) for benchmark in group}
    for benchmark in group:
        folder = evaluation_folder(run, benchmark)
        if not (folder / "fingerprint.json").exists():
            records.write_json(folder / "fingerprint.json", run.evaluation_fingerprint(benchmark))
        if not benchmark_samples(run, benchmark) and not (folder / "generations.jsonl").exists():
            records.write_rows(folder / "generations.jsonl", ())  # an intervention that applies to no prompt
    if not (chunks := incomplete_chunks(run, *group)):
        return []
    for benchmark in group:
        _record_dtype(session, benchmark)
    files = {benchmark.name: _File(run, benchmark) for benchmark in group}
    if engine.streams:
        chunks = [[due for due in chunk if not files[due[0].name].has(due)] for chunk in chunks]
    label = group[0].name if len(group) == 1 else f"{group[0].name}...{group[-1].intervention_name}"
    started, prompts = time.monotonic(), sum(len(file.due) for file in files.values())
    totals = Counter(benchmark.name for chunk in chunks for benchmark, _, _ in chunk)
    with bar(label, prompts, prompts - totals.total()) as advance:
        for chunk in chunks:
            for number, answer in Chunk(session, engine, chunk, interventions).answers(advance):
                file = files[chunk[number][0].name]
                file.take(chunk[number], answer)
                if engine.streams:
                    file.append()
            for file in files.values():
                file.append()
    tokens, seconds = sum(file.tokens for file in files.values()), time.monotonic() - started
    log.info("generate  %s: %d prompts, %d tokens in %.0f s", label, totals.total(), tokens, seconds)
    return [fault for file in files.values() if (fault := file.finish(totals[file.benchmark.name]))]


def _record_dtype(session: Session, benchmark: Benchmark) -> None:
    """Record the dtype that a benchmark is generated in. Raises RunError if its rows, or those without the
    intervention, were made in another: `auto` may be one on this machine and another on the next.
    """
    run = session.run
    if run.generation.dtype is None:  # a server's, or vLLM's
        return
    dtype = {MADE_IN: str(session.dtype(run.generation.dtype)).removeprefix("torch.")}
    for each in (benchmark.without_intervention, benchmark):
        folder = evaluation_folder(run, each)
        if any(records.named_lines(folder / "generations.jsonl")):
            made = {MADE_IN: records.read_json(folder / "fingerprint.json").get(MADE_IN, dtype[MADE_IN])}
            remedy = f"go on where generation.dtype={run.generation.dtype} is {made[MADE_IN]}, or delete {folder}"
            refuse_other(folder, made, dtype, remedy)
        elif each is benchmark:
            records.write_json(folder / "fingerprint.json", records.read_json(folder / "fingerprint.json") | dtype)


class _File:
    """A benchmark's generations.jsonl while answers arrive: `done` are in it, `refused` are asked for again."""

    def __init__(self, run: Run, benchmark: Benchmark) -> None:
        self.run, self.benchmark = run, benchmark
        self.path, self.due = evaluation_folder(run, benchmark) / "generations.jsonl", benchmark_samples(run, benchmark)
        records.repair_rows(self.path)
        self.done, self.refused = _answered(run, benchmark), _generations(self.path, _is_refused)
        self.rows, self.unanswered, self.tokens = list[Generation](), list[str](), 0
        if self.refused:  # without a reply, the old refusal stays
            with records.replacing(self.path) as file:
                file.writelines(line for name, line in records.named_lines(self.path) if name not in self.refused)

    def has(self, due: BenchmarkSample) -> bool:
        return (due[1].id, due[2]) in self.done

    def take(self, due: BenchmarkSample, answer: Generation | Failure) -> None:
        """Keep an answer for the next `append`, unless the file has it."""
        outcome = self.refused.get((due[1].id, due[2]), answer) if isinstance(answer, Failure) else answer
        if isinstance(outcome, Failure):
            self.unanswered.append(outcome.reason)
        elif not self.has(due):
            self.tokens += outcome.thought_tokens + outcome.answer_tokens
            self.rows.append(outcome)

    def append(self) -> None:
        records.append_rows(self.path, self.rows, training_checksums(self.run))
        self.rows = []

    def finish(self, total: int) -> str:
        """Sort the file. Returns a line about the prompts without an answer, of `total` that were asked, or ""."""
        benchmark, due = self.benchmark, self.due
        positions = {name: position for position, name in enumerate(due)}
        records.sort_rows(self.path, positions)
        if self.unanswered:
            count, reason = len(self.unanswered), self.unanswered[0]
            return f"{benchmark.name}: {count} of {total} prompts have no answer yet, because {reason}"
        if too_long := sum(row.error == NO_ROOM for row in records.iterate_rows(self.path, Generation)):
            log.warning("generate  %s: %d of %d prompts: %s", benchmark.name, too_long, len(due), NO_ROOM)
        reasons = [row.error for row in _generations(self.path, _is_refused).values()]
        if reasons and len(reasons) >= NEARLY_ALL * len(due):
            why = f"{reasons[0]} at {self.run.generation.base_url}"
            return f"{benchmark.name}: {len(reasons)} of {len(due)} prompts have no answer, because {why}"
        return ""
