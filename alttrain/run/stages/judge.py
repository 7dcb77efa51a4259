"""Stage judge: generations.jsonl -> judgements.jsonl, adherence.jsonl, judges.json and metrics.json.

It never generates. A judgement is kept as long as its judge is configured as it was, so a new judge, or a changed one,
judges alone; one whose server did not reply is asked for again. Judgements are appended as they come.

- judgements.jsonl  one row for each generation, judge and judged part, in the order of the generations
- adherence.jsonl   what each thought holds
- judges.json       how each judge was configured
- agreement.json    with two judges or with human labels: how far they agree, and rates corrected for their errors
- metrics.json      the numbers, with the protocol's hash
"""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from alttrain import __version__
from alttrain.backbone.source import cache_folder
from alttrain.config import RunError, flatten
from alttrain.dataset import contaminated
from alttrain.dataset.decontamination import How
from alttrain.dataset.duplicates import words
from alttrain.dataset.rows import content_hash
from alttrain.evaluation import Adherence, Benchmark, Judge, JudgeDesk, Metric, seen_by_judge, summarise
from alttrain.evaluation.agreement import judge_report, read_labels
from alttrain.evaluation.judges.asking import NO_REPLY
from alttrain.records import (
    Example,
    Generation,
    Judgement,
    append_rows,
    read_rows,
    repair_rows,
    write_json,
    write_rows,
)
from alttrain.run.assembly import Run
from alttrain.run.folder import as_json, evaluation_folder
from alttrain.run.progress import bar
from alttrain.run.session import Session
from alttrain.run.stages.analysis import analyse
from alttrain.run.tracking import tell

log = logging.getLogger(__name__)

APPENDED = 256
"""Judgements that are written together while a judge is at work."""

Key = tuple[str, str, str, int]
"""What a judgement is of: judge, part, id and sample."""


def judge(run: Run, session: Session) -> None:
    """Judge every benchmark that has generations and no current metrics; tell the tracker."""
    judged = [benchmark for benchmark in run.benchmarks if _judge(run, session, benchmark)]
    if judged:
        tell(run)


def _judge(run: Run, session: Session, benchmark: Benchmark) -> bool:
    """Whether there was anything to judge."""
    folder = evaluation_folder(run, benchmark)
    judges = {
        judge.name: judge for judge in (benchmark.judge, *run.protocol.second_opinions.get(benchmark.measure, ()))
    }
    configured = as_json(_configured(run, benchmark))
    provenance = {
        "alttrain": __version__,
        "measure": benchmark.measure,
        "judges": configured,
        "parts": list(run.protocol.parts),
        "protocol": run.protocol.name,
        "protocol_hash": run.protocol_hash(benchmark),
        "human_labels": content_hash(Path(benchmark.human_labels)) if benchmark.human_labels else None,
    }
    path = folder / "metrics.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["provenance"] == provenance:
        return False
    generations = read_rows(folder / "generations.jsonl", Generation)
    expected = len(benchmark.rows.examples(None)) * run.protocol.decoding.samples
    if len(generations) != expected:
        raise FileNotFoundError(
            f"{folder / 'generations.jsonl'} has {len(generations)} of {expected} generations; "
            "run the generate stage first"
        )
    judgements = _judgements(run, session, judges, generations, configured, folder)
    failed = [judgement for judgement in judgements.values() if judgement.error.startswith(NO_REPLY)]
    main = [judgements[benchmark.judge.name, run.protocol.judged, g.id, g.sample] for g in generations]
    refusals = main if benchmark.judge.says == "refused" and run.protocol.judged == "answer" else [None] * len(main)
    adherence = [Adherence.of(g, refusal) for g, refusal in zip(generations, refusals, strict=True)]
    write_rows(folder / "adherence.jsonl", adherence)
    metrics = summarise(benchmark.measure, generations, main, adherence, benchmark.judge.says)
    for name, judge in judges.items():
        for part in run.protocol.parts:
            if (name, part) != (benchmark.judge.name, run.protocol.judged):
                rows = [judgements[name, part, g.id, g.sample] for g in generations]
                rate = summarise(benchmark.measure, generations, rows, adherence, judge.says)[0]
                suffix = (
                    part if name == benchmark.judge.name else name if part == run.protocol.judged else f"{name}.{part}"
                )
                metrics.append(replace(rate, metric=f"{rate.metric}.{suffix}"))
    _agreement(run, benchmark, judges, judgements, generations, folder)
    if failed:
        raise RunError(
            f"{folder.name}: {len(failed)} of {len(judgements)} judgements failed ({failed[0].error}); what was judged "
            "is kept, and the same command asks again for the rest"
        )
    contamination = _contamination(run, benchmark)
    write_json(
        path,
        {
            "benchmark": benchmark.name,
            "provenance": provenance,
            "contaminated": contamination,
            "metrics": [_plain(metric) for metric in metrics],
            "analysis": analyse(benchmark, generations, main, adherence, metrics[0]),
        },
    )
    rate = metrics[0]
    if contamination:
        log.warning(
            "judge     %s: %d of its prompts stand among the training prompts", benchmark.name, len(contamination)
        )
    log.info("judge     %s: %s %.1f %% of %d", benchmark.name, rate.metric, 100 * rate.value, rate.n - rate.undecided)
    return True


def _configured(run: Run, benchmark: Benchmark) -> dict[str, Any]:
    """How each judge of a benchmark is configured, by its name."""
    nodes = [run.config["evaluation"]["benchmarks"][benchmark.name]["judge"]]
    nodes += run.config["protocol"]["second_opinions"].get(benchmark.measure, [])
    judges: Sequence[Judge] = (benchmark.judge, *run.protocol.second_opinions.get(benchmark.measure, ()))
    if len({judge.name for judge in judges}) < len(judges):
        raise RunError(f"benchmark {benchmark.name}: two of its judges have the same name; give each a name of its own")
    return {judge.name: flatten(node) | {"alttrain": __version__} for judge, node in zip(judges, nodes, strict=True)}


def _agreement(
    run: Run,
    benchmark: Benchmark,
    judges: dict[str, Judge],
    judgements: dict[Key, Judgement],
    generations: list[Generation],
    folder: Path,
) -> None:
    """Write how far judges agree with each other and with the human labels, where there is anything to compare.

    Verdicts are turned to one meaning: "unsafe" is compared as not refused.
    """
    labels = read_labels(Path(benchmark.human_labels)) if benchmark.human_labels else None
    if len(judges) < 2 and labels is None:
        return
    refused = benchmark.judge.says != "unsafe"

    def told(says: str, verdict: bool | None) -> bool | None:
        same = says == "correct" or (says == "refused") == refused
        return verdict if verdict is None or same else not verdict

    def shown(generation: Generation) -> str:
        return generation.id if run.protocol.decoding.samples == 1 else _item(generation)

    verdicts = {
        name: {
            shown(g): told(judge.says, judgements[name, run.protocol.judged, g.id, g.sample].verdict)
            for g in generations
        }
        for name, judge in judges.items()
    }
    human = {name: told(labels.says, verdict) for name, verdict in labels.verdicts.items()} if labels else None
    categories = {shown(g): g.category for g in generations}
    write_json(folder / "agreement.json", judge_report(verdicts, run.seed, human, categories))


def _item(generation: Generation) -> str:
    return f"{generation.id}#{generation.sample}"


def _judgements(
    run: Run,
    session: Session,
    judges: dict[str, Judge],
    generations: list[Generation],
    configured: dict[str, Any],
    folder: Path,
) -> dict[Key, Judgement]:
    """All judgements: those that are kept, and those that are missing, judged now."""
    path = folder / "judgements.jsonl"
    found = _kept(path, folder / "judges.json", configured)
    write_rows(path, found.values())
    write_json(folder / "judges.json", configured)
    desk_cache = cache_folder() / "replies"
    for name, judge in judges.items():
        for part in run.protocol.parts:
            lacking = [g for g in generations if (name, part, g.id, g.sample) not in found]
            for g in (g for g in lacking if g.finish == "error"):
                unjudged = Judgement(g.id, name, None, error=f"not generated: {g.error}", part=part, sample=g.sample)
                found[name, part, g.id, g.sample] = unjudged
            lacking = [g for g in lacking if g.finish != "error"]
            if not lacking:
                continue
            shown = {_item(g): g for g in lacking}
            with bar(f"{name} on {folder.name}", len(lacking)) as advance:
                desk = JudgeDesk(desk_cache, session.scorer, advance)
                asked = [replace(seen_by_judge(g, part), id=item) for item, g in shown.items()]
                for batch in _batches(judge.judge(asked, desk)):
                    rows = [replace(row, id=shown[row.id].id, sample=shown[row.id].sample, part=part) for row in batch]
                    append_rows(path, rows)
                    found |= {(name, part, row.id, row.sample): row for row in rows}
    order = {(g.id, g.sample): number for number, g in enumerate(generations)}
    ordered = sorted(
        found, key=lambda key: (list(judges).index(key[0]), run.protocol.parts.index(key[1]), order[key[2:]])
    )
    write_rows(path, (found[key] for key in ordered))
    return found


def _kept(path: Path, judges: Path, configured: dict[str, Any]) -> dict[Key, Judgement]:
    """The judgements on file that still hold."""
    repair_rows(path)
    before = json.loads(judges.read_text(encoding="utf-8")) if judges.exists() else {}
    rows = read_rows(path, Judgement)
    return {
        (row.judge, row.part, row.id, row.sample): row
        for row in rows
        if row.judge in configured
        and before.get(row.judge) == configured[row.judge]
        and not row.error.startswith(NO_REPLY)
    }


def _batches(judgements: Iterator[Judgement]) -> Iterator[list[Judgement]]:
    batch: list[Judgement] = []
    for judgement in judgements:
        batch.append(judgement)
        if len(batch) == APPENDED:
            yield batch
            batch = []
    if batch:
        yield batch


def _contamination(run: Run, benchmark: Benchmark) -> list[dict[str, Any]]:
    """The benchmark's prompts that the run was trained on."""
    trained = read_rows(run.folder / "train.jsonl", Example)
    if not trained:
        return []
    rows = [(row.id, row.prompt, words(row.prompt)) for row in trained]
    return [asdict(match) for match in contaminated(rows, {benchmark.name: benchmark.prompts()}, get_args(How))]


def _plain(metric: Metric) -> dict[str, Any]:
    """A metric as JSON, which has no nan."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(metric).items()}
