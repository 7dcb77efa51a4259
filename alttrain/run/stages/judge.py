"""Stage judge: generations.jsonl -> judgements.jsonl, adherence.jsonl, judges.json and metrics.json.

It generates no text. A judgement is kept as long as its generation and its judge's config are unchanged, so only new or
changed judges run. If a server gave no verdict on a text, the next run asks again. metrics.json holds the hashes of its
input files, and is computed again if one of them changes.

The run's config says which judge decides. The verdicts of other judges, which judged the same texts before, are kept:
their rates and their agreement with the deciding judge are further metrics. All files are made in judging/, where
judgements are appended as they arrive, and replace the old ones when they are complete.

- judgements.jsonl  one row for each judge, judged part and generation, sorted in this order
- adherence.jsonl   what each thought contains
- judges.json       the config of each judge, and what its True means
- agreement.json    with two judges or with human labels: their agreement, and rates corrected for judges' errors
- structure.json    with a judge of structure: its agreement with the offline parser, by field
- metrics.json      the numbers, with the protocol's hash
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from alttrain import __version__, records
from alttrain.config import RunError, flatten
from alttrain.config.identity import shaping_of_judge
from alttrain.dataset import contaminated
from alttrain.dataset.similarity import DEFAULT
from alttrain.dataset.sources import content_hash
from alttrain.evaluation import Adherence, Benchmark, Judge, JudgeContext, Metric, Summary
from alttrain.evaluation.agreement import CORRECTED, StructureAgreement, plain_json
from alttrain.evaluation.judged import (
    DOCUMENTS,
    JUDGING,
    NOT_GENERATED,
    TRUE_MEANS,
    Judgements,
    merge_entries,
    put_in_place,
    shaping_verdicts,
)
from alttrain.evaluation.judges import NO_REPLY, Structure
from alttrain.llm import NEARLY_ALL
from alttrain.records import DamagedError, Example, Generation, Judgement, cache_folder
from alttrain.run.assembly import Run, judge_settings
from alttrain.run.folder import as_json, evaluation_folder, source_texts
from alttrain.run.loggers import log_evaluation
from alttrain.run.opinions import agreement
from alttrain.run.progress import bar
from alttrain.run.session import Session
from alttrain.run.stages.generate import benchmark_samples
from alttrain.run.stages.train import training_checksums

log = logging.getLogger(__name__)

Block = tuple[str, str]  # (judge, part) of judgements
Summaries = Mapping[Block, Summary]  # the summary of each block's judgements; the deciding one first


def judge(run: Run, session: Session) -> None:
    """Judge every benchmark whose metrics are missing or outdated. If there was one, log the results of all."""
    newly_judged = [benchmark for benchmark in run.all_benchmarks if _judge(run, session, benchmark)]
    if newly_judged:
        log_evaluation(run)


def _judge(run: Run, session: Session, benchmark: Benchmark) -> bool:
    """Judge one benchmark. Returns whether there was work to do."""
    folder, present = evaluation_folder(run, benchmark), _state_of_metrics(run, benchmark)
    if present.is_current and not _can_ask_again(run, benchmark, present.unsettled):
        return False
    if put_in_place(folder):  # a kill came while the files were moved
        return _judge(run, session, benchmark)
    judgements = _open_judgements(run, benchmark)
    _remove_outdated(folder, present)
    _collect_verdicts(judgements, session)
    servers = _refuse_unjudged(judgements)
    rate = _write_metrics(run, benchmark, judgements, _summarise(benchmark, judgements), servers)
    put_in_place(folder)
    deciding = judgements.blocks[0][0]
    other_judges = ", ".join(dict.fromkeys(name for name, _ in judgements.blocks if name != deciding))
    decided = rate.n - rate.undecided
    value = f"{100 * rate.value:.1f} % of {decided}" if decided else f"unknown: none of {rate.n} decided"
    also = f"; also judged by {other_judges}" if other_judges else ""
    log.info("judge     %s: %s %s by %s%s", benchmark.name, rate.metric, value, deciding, also)
    return True


# --- existing metrics ---


class MetricsState(NamedTuple):
    """The state of metrics.json."""

    same_provenance: bool  # whether it exists, is undamaged and has this provenance
    changed_files: list[str]  # files that changed since
    unsettled: int  # texts without a verdict because of a server

    @property
    def is_current(self) -> bool:
        return self.same_provenance and not self.changed_files


def is_judged(run: Run, benchmark: Benchmark) -> bool:
    """Return whether current metrics exist, from these judges, protocol, labels and files, or nothing is to judge."""
    return _state_of_metrics(run, benchmark).is_current


def _state_of_metrics(run: Run, benchmark: Benchmark) -> MetricsState:
    if benchmark.intervention and not benchmark_samples(run, benchmark):
        return MetricsState(True, [], 0)  # it applies to no prompt, so that there is nothing to judge
    folder = evaluation_folder(run, benchmark)
    try:
        metrics = records.read_metrics(folder / "metrics.json")
    except DamagedError:
        return MetricsState(False, [], 0)
    made_from = metrics["made_from"]
    changed = [name for name, digest in _made_from(run, folder, folder).items() if digest != made_from.get(name)]
    return MetricsState(metrics["provenance"] == _provenance(run, benchmark), changed, metrics["unsettled"])


def _made_from(run: Run, folder: Path, document_folder: Path) -> dict[str, str | None]:
    """Return the SHA-256 of each file that metrics.json is made from; None if it is missing.

    `document_folder` holds those that the judge stage makes.
    """
    paths = (folder / "generations.jsonl", *(document_folder / name for name in DOCUMENTS), run.folder / "train.jsonl")
    return {path.name: records.checksum(path) for path in paths}


def _can_ask_again(run: Run, benchmark: Benchmark, unsettled: int) -> bool:
    """Return whether texts have no verdict because of a server, and that server can be asked now."""
    try:
        for key, judge in judges_of(run, benchmark).items() if unsettled else ():
            if judge.servers:
                judge.check(key, lambda *model: "")
    except ValueError as error:
        log.warning("judge     %s: %d texts stay undecided: %s", benchmark.name, unsettled, error)
        return False
    return unsettled > 0


# --- provenance ---


def judges_of(run: Run, benchmark: Benchmark) -> dict[str, Judge]:
    """Return a benchmark's judges, the deciding one first, keyed by the config key of each.

    Raises RunError if two have the same name, or one that a rate corrected by labels has.
    """
    measure = benchmark.measure
    shared_keys = (key for key in (benchmark.base_name, measure) if run.protocol.judges.get(key) == benchmark.judge)
    own_key = f"evaluation.benchmarks.{benchmark.base_name}.judge"
    judges = {next((f"protocol.judges.{key}" for key in shared_keys), own_key): benchmark.judge}
    for key, judge in run.protocol.second_opinions.get(measure, {}).items():
        judges[f"protocol.second_opinions.{measure}.{key}"] = judge
    keys = dict[str, str]()
    for key, judge in judges.items():
        if (first_key := keys.setdefault(judge.name, key)) != key:
            raise RunError(f"{key}.name={judge.name}: {first_key} has the same name; give each a name of its own")
        if judge.name.startswith(CORRECTED):
            raise RunError(f"{key}.name={judge.name}: rates corrected by labels are called so; give another name")
    return judges


def _provenance(run: Run, benchmark: Benchmark) -> dict[str, Any]:
    """Return the provenance of the numbers, for metrics.json.

    Of a judge's server settings, only the address is included.
    """
    others = run.config["protocol"].get("second_opinions", {}).get(benchmark.measure, {})
    nodes = [run.config["evaluation"]["benchmarks"][benchmark.base_name]["judge"], *others.values()]
    judges: dict[str, Any] = {}
    for judge, node in zip(judges_of(run, benchmark).values(), nodes, strict=True):
        addresses = {key: value for key, value in flatten(node).items() if key.rpartition(".")[2] == "base_url"}
        judges[judge.name] = judge_settings(node) | addresses | {"alttrain": __version__}
    intervention: dict[str, Any] | None = None
    if benchmark.intervention:
        total = len(benchmark.examples) * run.protocol.decoding_for(benchmark).samples
        intervention = {
            "name": benchmark.intervention_name,
            "of": benchmark.base_name,
            "of_hash": run.protocol_hash(benchmark.without_intervention),
            "left_out": total - len(benchmark_samples(run, benchmark)),  # texts that it does not apply to
            "settings": flatten(shaping_of_judge(run.config["intervention"][benchmark.intervention_name])),
        }
    return {
        "alttrain": __version__,
        "kind": benchmark.kind,
        "measure": benchmark.measure,
        "means": {measure: list(names) for measure, names in run.protocol.means.items()},
        "tables": list(benchmark.tables),
        "labels": dict(benchmark.labels),
        "intervention": intervention,
        "judges": as_json(judges),
        "parts": list(run.protocol.parts_of(benchmark)),
        "protocol": run.protocol.name,
        "protocol_hash": run.protocol_hash(benchmark, texts=source_texts(run, benchmark)),
        "changed": as_json({**run.changed.evaluation[benchmark.base_name], **lacking_rows(benchmark)}),
        "human_labels": content_hash(Path(benchmark.human_labels)) if benchmark.human_labels else None,
    }


def lacking_rows(benchmark: Benchmark) -> dict[str, tuple[int, int]]:
    """Return {"rows": (rows of the published set, rows here)} if they differ, else {}."""
    published, present = getattr(benchmark.rows, "count", None), len(benchmark.examples)
    return {"rows": (published, present)} if published not in (None, present) else {}


# --- verdicts ---


def _open_judgements(run: Run, benchmark: Benchmark) -> Judgements:
    """Open a benchmark's judgements. Raises an error if it has more or fewer generations than it asks for."""
    folder, expected = evaluation_folder(run, benchmark), len(benchmark_samples(run, benchmark))
    judges = {judge.name: judge for judge in judges_of(run, benchmark).values()}
    configs = _provenance(run, benchmark)["judges"]
    configured = {name: config | {TRUE_MEANS: judges[name].says} for name, config in configs.items()}
    entries, names = merge_entries(configured, folder)
    judgements = Judgements(folder, judges, run.protocol.parts_of(benchmark), entries, names, training_checksums(run))
    path, present = judgements.generations, judgements.rows
    if present > expected:
        raise DamagedError(path, f"has {present} generations, and the benchmark asks for {expected}")
    if present < expected:
        raise FileNotFoundError(f"{path} has {present} of {expected} generations; run the generate stage first")
    return judgements


def _remove_outdated(folder: Path, present: MetricsState) -> None:
    """Remove metrics that were made from other files, and what a failed attempt has left in judging/."""
    if present.changed_files:  # if judging fails now, a report must not show the old numbers
        changed = ", ".join(present.changed_files)
        log.warning("judge     %s is judged again: its metrics are of other %s", folder.name, changed)
        if present.same_provenance and "judgements.jsonl" in present.changed_files:
            (folder / "judgements.jsonl").unlink(missing_ok=True)  # it was edited, so it is not what the judges said
        (folder / "metrics.json").unlink()
    for name in DOCUMENTS:
        (folder / JUDGING / name).unlink(missing_ok=True)


def _collect_verdicts(judgements: Judgements, session: Session) -> None:
    """Have each judge give the verdicts that are lacking, and write the new judgements.jsonl and judges.json."""
    judgements.find()
    for name, part in judgements.requested_blocks:
        if lacking := judgements.count_missing(name, part):
            with bar(f"{name} on {judgements.folder.name}", judgements.rows, judgements.rows - lacking) as advance:
                judgements.judge_missing(name, part, JudgeContext(cache_folder() / "replies", session.scorer, advance))
    judgements.write()


def _refuse_unjudged(judgements: Judgements) -> dict[str, Any]:
    """Return for metrics.json the number of texts without a verdict because of a server, and the models that answered.

    Raises RunError if a server did not reply, or gave usable replies to almost none of its requests.
    """
    unsettled, replied = 0, Counter[str]()
    failed, models = defaultdict[str, list[str]](list), defaultdict[str, set[str]](set)
    for row in records.iterate_rows(judgements.path, Judgement):
        if (row.judge, row.part) not in judgements.requested_blocks:
            continue
        has_reply = row.verdict is not None or row.probability is not None or bool(row.raw or row.error)
        replied[row.judge] += has_reply and not row.error.startswith(NOT_GENERATED)
        if row.served:
            models[row.judge].add(row.served)
        if judgements.is_unsettled(row):
            unsettled += 1
            if not row.raw:
                failed[row.judge].append(row.error)
    for judge, errors in failed.items():
        no_reply = any(error.startswith(NO_REPLY) for error in errors)
        if no_reply or len(errors) >= NEARLY_ALL * replied[judge]:
            judge_at = " at ".join([judge, *judgements.judges[judge].servers])
            raise RunError(
                f"{judgements.folder.name}: {len(errors)} of {replied[judge]} judgements by {judge_at} failed "
                f"({errors[0]}); what was judged is kept, and the same command asks again for the rest"
            )
    for judge, names in models.items():
        if len(names) > 1:  # without a revision, a model is what the hub or the server had on the day
            message = "judge     %s: verdicts by %s are of several models, %s; delete judgements.jsonl for those of one"
            log.warning(message, judgements.folder.name, judge, ", ".join(sorted(names)))
    return {"unsettled": unsettled, "served": {judge: sorted(names) for judge, names in models.items()}}


# --- numbers ---


def _rate_name(measure: str, block: Block, deciding: Block) -> str:
    """Return the name of the rate of another judge or part: the measure, and what differs from the deciding block."""
    differing = [name for name, deciding_name in zip(block, deciding, strict=True) if name != deciding_name]
    return ".".join([measure, *differing])


def _summarise(benchmark: Benchmark, judgements: Judgements) -> Summaries:
    """Write adherence.jsonl and, with a judge of structure, structure.json. Returns all summaries."""
    document_folder, deciding = judgements.path.parent, judgements.blocks[0]
    summaries = {
        block: Summary(benchmark.measure, judgements.entries[block[0]][TRUE_MEANS]) for block in judgements.blocks
    }
    structure_agreements = {
        (name, deciding[1]): StructureAgreement()
        for name, judge in judgements.judges.items()
        if isinstance(judge, Structure)
    }
    reads = getattr(benchmark.judge, "reads", "answer")  # a judge of structure reads the thought, whatever is judged
    judge_sees_refusals = benchmark.judge.says == "refused" and reads == deciding[1] == "answer"

    def adherence() -> Iterator[Adherence]:
        rows = records.iterate_rows(judgements.generations, Generation)
        for row, *row_judgements in zip(rows, *(judgements.rows_of(*block) for block in summaries), strict=True):
            judgement_of = dict(zip(summaries, row_judgements, strict=True))
            contents = Adherence.of(row, judgement_of[deciding] if judge_sees_refusals else None)
            for block, summary in summaries.items():
                summary.add(row, judgement_of[block], contents)
            for block, structure in structure_agreements.items():
                structure.add(judgement_of[block], contents, row)
            yield contents

    records.write_rows(document_folder / "adherence.jsonl", adherence())
    if structure_agreements:
        reports = {name: structure.report() for (name, _), structure in structure_agreements.items()}
        records.write_json(document_folder / "structure.json", reports)
    return summaries


def _write_metrics(
    run: Run, benchmark: Benchmark, judgements: Judgements, summaries: Summaries, servers: Mapping[str, Any]
) -> Metric:
    """Write metrics.json into judging/, after all other files. Returns the deciding judge's rate."""
    folder, document_folder, deciding = judgements.folder, judgements.path.parent, judgements.blocks[0]
    metrics, entries = summaries[deciding].metrics(), list[dict[str, Any]]()
    for (name, part), summary in summaries.items():
        entry = {"judge": name, "part": part, "counted": summary.counting, "says": summary.says}
        if (name, part) != deciding:
            metric = _rate_name(benchmark.measure, (name, part), deciding)
            shaping, texts = shaping_verdicts(judgements.entries[name]), source_texts(run, benchmark)
            entry |= {"protocol_hash": run.protocol_hash(benchmark, shaping, part, texts), "metric": metric}
            metrics.append(replace(summary.metrics()[0], metric=metric))
        entries.append(entry)
    metrics += agreement(run, benchmark, judgements)
    # prompts are compared for the benchmark without its intervention
    rows = [] if benchmark.intervention else records.read_rows(run.folder / "train.jsonl", Example)
    trained = [(row.id, turn) for row in rows for turn in (*row.turns, row.prompt)]
    contamination = contaminated(trained, {benchmark.name: benchmark.prompts()}, DEFAULT) if trained else []
    if contamination:
        log.warning("judge     %s: %d training prompts are also in it", benchmark.name, len(contamination))
    records.write_sealed(
        document_folder / "metrics.json",
        {
            "benchmark": benchmark.name,
            "provenance": _provenance(run, benchmark),
            "made_from": _made_from(run, folder, document_folder),
            **servers,
            "contaminated": [asdict(match) for match in contamination],
            "left_out": [asdict(row) for row in benchmark.rejected()],
            "metrics": plain_json([asdict(metric) for metric in metrics]),
            "analysis": {"decides": entries[0], **summaries[deciding].analysis(), "others": entries[1:]},
        },
    )
    return metrics[0]
