"""Stage judge: generations.jsonl -> judgements.jsonl, adherence.jsonl, judges.json and metrics.json.

It generates no text. A judgement is kept as long as its generation and its judge's config are unchanged, so only new or
changed judges run. If a server gave no verdict on a text, the next run asks again. Judgements are appended as they
arrive. metrics.json holds the hashes of its input files, and is computed again if one of them changes.

- judgements.jsonl  one row for each judge, judged part and generation, sorted in this order
- adherence.jsonl   what each thought contains
- judges.json       the config of each judge
- agreement.json    with two judges or with human labels: their agreement, and rates corrected for judges' errors
- structure.json    with a judge of structure: its agreement with the offline parser, by field
- metrics.json      the numbers, with the protocol's hash
"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from alttrain import __version__, records
from alttrain.backbone.source import cache_folder
from alttrain.config import RunError, flatten
from alttrain.config.identity import shaping_of_judge
from alttrain.dataset import contaminated
from alttrain.dataset.similarity import DEFAULT
from alttrain.dataset.sources import content_hash
from alttrain.evaluation import Adherence, Benchmark, Judge, JudgeContext, Metric
from alttrain.evaluation.adherence import Outcomes, assessing, failures
from alttrain.evaluation.agreement import SHOWN, judge_report, read_labels, text_hash
from alttrain.evaluation.interventions import JOIN
from alttrain.evaluation.judged import NOT_GENERATED, Judgements
from alttrain.evaluation.judges import NO_REPLY
from alttrain.evaluation.judges.judge import request
from alttrain.evaluation.metrics import Summary, counted
from alttrain.evaluation.protocol import seen_by_judge
from alttrain.llm import NEARLY_ALL
from alttrain.records import DamagedError, Example, Generation, Judgement
from alttrain.run.assembly import Run
from alttrain.run.folder import as_json, evaluation_folder
from alttrain.run.loggers import log_evaluation
from alttrain.run.progress import bar
from alttrain.run.session import Session
from alttrain.run.stages.generate import asked
from alttrain.run.stages.train import writer

OUTCOMES = {"refused": ("refused", "answered"), "unsafe": ("unsafe", "safe"), "correct": ("correct", "wrong")}
log = logging.getLogger(__name__)


def judge(run: Run, session: Session) -> None:
    """Judge every benchmark whose metrics are missing or outdated. If there was one, log the results of all."""
    judged = [benchmark for benchmark in run.evaluated if _judge(run, session, benchmark)]
    if judged:
        log_evaluation(run)


def _judge(run: Run, session: Session, benchmark: Benchmark) -> bool:
    """Judge one benchmark. Returns whether there was work to do."""
    before, same, changed = _judged(run, benchmark)
    if same and not changed and not _can_ask_again(run, benchmark, before.get("unsettled", 0)):
        return False
    folder, provenance = evaluation_folder(run, benchmark), _provenance(run, benchmark)
    judges = {judge.name: judge for judge in judges_of(run, benchmark).values()}
    judgements = Judgements(folder, judges, run.protocol.parts, writer(run))
    found, expected = judgements.rows, len(asked(run, benchmark))
    path = folder / "generations.jsonl"
    if found > expected:
        raise DamagedError(path, f"has {found} generations, and the benchmark asks for {expected}")
    if found < expected:
        raise FileNotFoundError(f"{path} has {found} of {expected} generations; run the generate stage first")
    if changed:  # if judging fails now, a report must not show the old numbers
        log.warning("judge     %s is judged again: its metrics are of other %s", folder.name, ", ".join(changed))
        if same and "judgements.jsonl" in changed:
            judgements.path.unlink(missing_ok=True)  # it was edited, so it is not what the judges said
        (folder / "metrics.json").unlink()
    for name in ("agreement.json", "structure.json"):  # written again below, if they still apply
        (folder / name).unlink(missing_ok=True)

    configured, made_by = provenance["judges"], records.kept_json(folder / "judges.json") or {}
    judgements.keep(lambda row: made_by.get(row.judge) == configured[row.judge])
    records.write_json(folder / "judges.json", configured)
    for name, part in product(judges, run.protocol.parts):
        if lacking := judgements.lacking(name, part):
            with bar(f"{name} on {folder.name}", lacking) as advance:
                judgements.make(name, part, JudgeContext(cache_folder() / "replies", session.scorer, advance))
    judgements.sort()

    counts, metrics = _measure(run, benchmark, judgements, folder)
    if len(judges) > 1 or benchmark.human_labels:
        _agreement(run, benchmark, judgements, folder)
    servers = _refuse_unjudged(judgements, folder)
    trained = [(row.id, row.prompt) for row in records.read_rows(run.folder / "train.jsonl", Example)]
    contamination = contaminated(trained, {benchmark.name: benchmark.prompts()}, DEFAULT) if trained else []
    numbers = [asdict(metric) for metric in metrics]
    records.write_sealed(
        folder / "metrics.json",
        {
            "benchmark": benchmark.name,
            "provenance": provenance,
            "made_from": _made_from(run, folder),
            **servers,
            "contaminated": [asdict(match) for match in contamination],
            "left_out": [asdict(row) for row in benchmark.left_out()],
            "metrics": [
                {key: None if isinstance(n, float) and math.isnan(n) else n for key, n in number.items()}
                for number in numbers
            ],
            "analysis": counts.analysis(run.protocol.judged),
        },
    )
    rate = metrics[0]
    if contamination:
        log.warning("judge     %s: %d training prompts are also in it", benchmark.name, len(contamination))
    log.info("judge     %s: %s %.1f %% of %d", benchmark.name, rate.metric, 100 * rate.value, rate.n - rate.undecided)
    return True


def judges_of(run: Run, benchmark: Benchmark) -> dict[str, Judge]:
    """Return a benchmark's judges, keyed by the config key of each."""
    measure = benchmark.measure
    shared = (key for key in (benchmark.base, measure) if run.protocol.judges.get(key) == benchmark.judge)
    main = next((f"protocol.judges.{key}" for key in shared), f"evaluation.benchmarks.{benchmark.base}.judge")
    others = run.protocol.second_opinions.get(measure, ())
    keyed: Iterable[tuple[object, Judge]] = others.items() if isinstance(others, Mapping) else enumerate(others)
    return {main: benchmark.judge} | {f"protocol.second_opinions.{measure}.{key}": judge for key, judge in keyed}


def is_judged(run: Run, benchmark: Benchmark) -> bool:
    """Return whether current metrics exist, from these judges, protocol, labels and files."""
    _, same, changed = _judged(run, benchmark)
    return same and not changed


def _judged(run: Run, benchmark: Benchmark) -> tuple[dict[str, Any], bool, list[str]]:
    """Return metrics.json, whether it is of this provenance, and the files that changed since it was computed.

    A file that is missing or damaged is ({}, False, []).
    """
    folder = evaluation_folder(run, benchmark)
    try:
        judged = records.read_metrics(folder / "metrics.json")
    except (FileNotFoundError, DamagedError):
        return {}, False, []
    before = judged.get("made_from", {})
    changed = [name for name, digest in _made_from(run, folder).items() if digest != before.get(name)]
    return judged, judged.get("provenance") == _provenance(run, benchmark), changed


def _made_from(run: Run, folder: Path) -> dict[str, str | None]:
    """Return the SHA-256 of each file that metrics.json is made from; None if it is missing."""
    rows, documents = ("generations", "judgements", "adherence"), ("judges", "agreement", "structure")
    names = (*(f"{name}.jsonl" for name in rows), *(f"{name}.json" for name in documents))
    paths = (*(folder / name for name in names), run.folder / "train.jsonl")
    return {path.name: records.checksum(path) for path in paths}


def _can_ask_again(run: Run, benchmark: Benchmark, unsettled: int) -> bool:
    """Return whether texts have no verdict because of a server, and that server can be asked now."""
    try:
        for where, judge in judges_of(run, benchmark).items() if unsettled else ():
            if judge.servers:
                judge.check(where, lambda model, revision: "")
    except ValueError as error:
        log.warning("judge     %s: %d texts stay undecided: %s", benchmark.name, unsettled, error)
        return False
    return unsettled > 0


def _provenance(run: Run, benchmark: Benchmark) -> dict[str, Any]:
    """Return the provenance of the numbers, for metrics.json.

    Of a judge's server settings, only the address is included.
    """
    nodes = [run.config["evaluation"]["benchmarks"][benchmark.base]["judge"]]
    others = run.config["protocol"]["second_opinions"].get(benchmark.measure, [])
    nodes += others.values() if isinstance(others, Mapping) else others
    judges: dict[str, Any] = {}
    for judge, node in zip(judges_of(run, benchmark).values(), nodes, strict=True):
        if judge.name in judges:
            raise RunError(
                f"benchmark {benchmark.name}: two of its judges have the same name; give each a name of its own"
            )
        addresses = {key: value for key, value in flatten(node).items() if key.rpartition(".")[2] == "base_url"}
        judges[judge.name] = flatten(shaping_of_judge(node)) | addresses | {"alttrain": __version__}
    shown = {"tables": list(benchmark.tables), "labels": dict(benchmark.labels)}
    return {
        "alttrain": __version__,
        "kind": benchmark.kind,
        "measure": benchmark.measure,
        "means": {measure: list(names) for measure, names in run.protocol.means.items()},
        **({} if shown == {"tables": ["main"], "labels": {}} else shown),
        **({"intervention": _intervention(run, benchmark)} if benchmark.intervention else {}),
        "judges": as_json(judges),
        "parts": list(run.protocol.parts),
        "protocol": run.protocol.name,
        "protocol_hash": run.protocol_hash(benchmark),
        "changed": as_json({**run.changed.evaluation[benchmark.base], **lacking_rows(benchmark)}),
        "human_labels": content_hash(Path(benchmark.human_labels)) if benchmark.human_labels else None,
    }


def _intervention(run: Run, benchmark: Benchmark) -> dict[str, Any]:
    """Return an intervention's name, its settings, and the number of texts that it does not apply to."""
    name = benchmark.name.removeprefix(benchmark.base + JOIN)
    every = len(benchmark.examples) * run.protocol.decoding_for(benchmark).samples
    settings = flatten(run.config["intervention"][name])
    return {"name": name, "of": benchmark.base, "left_out": every - len(asked(run, benchmark)), "settings": settings}


def lacking_rows(benchmark: Benchmark) -> dict[str, tuple[int, int]]:
    """Return {"rows": (rows of the published set, rows here)} if they differ, else {}."""
    published, found = getattr(benchmark.rows, "count", None), len(benchmark.examples)
    return {"rows": (published, found)} if published not in (None, found) else {}


class Counts(Summary):
    """The summary of a benchmark's deciding judgements, and their analysis for metrics.json."""

    def __init__(self, benchmark: Benchmark) -> None:
        super().__init__(benchmark.measure, benchmark.judge.says)
        self._judge = benchmark.judge
        self._outcomes: Outcomes = Counter()

    def add(self, made: Generation, judged: Judgement, found: Adherence) -> None:
        """Add one row. For a judge of correctness, the adherence record says whether the answer refused."""
        super().add(made, judged, found)
        says, refused = self._judge.says, judged.verdict
        if says == "correct":
            refused = found.answer_refuses
        elif says == "unsafe" and refused is not None:
            refused = not refused
        if made.finish != "error":  # what was not generated assesses nothing
            self._outcomes[found.label, found.assessment, refused] += 1

    def analysis(self, part: str) -> dict[str, Any]:
        """Return the analysis for metrics.json. `part` is the judged part.

        - `decides`    the judge and the part whose verdict decides the measure, and which verdict counts
        - `assessing`  counts of the prompts' labels against the verdicts of the assessments
        - `failures`   counts of wrong outcomes by the assessment's verdict
        - `tokens`     tokens per query, by outcome
        """
        says = self._judge.says
        return {
            "decides": {"judge": self._judge.name, "part": part, "counted": counted(self.measure, says)},
            "assessing": assessing(self._outcomes),
            "failures": failures(self._outcomes),
            "tokens": self.tokens(OUTCOMES[says]),
        }


def _measure(run: Run, benchmark: Benchmark, judgements: Judgements, folder: Path) -> tuple[Counts, list[Metric]]:
    """Write adherence.jsonl and, with a judge of structure, structure.json.

    Returns the counts of the deciding judgements, and the metrics: those of the deciding judge, then rates of the
    others.
    """
    main = (benchmark.judge.name, run.protocol.judged)
    blocks = list(product(judgements.judges, run.protocol.parts))
    counts = Counts(benchmark)
    summaries = {block: Summary(benchmark.measure, judgements.judges[block[0]].says) for block in blocks}
    summaries[main] = counts
    readers = {name: judge.agreement() for name, judge in judgements.judges.items() if hasattr(judge, "agreement")}
    tells = benchmark.judge.says == "refused" and run.protocol.judged == "answer"

    def adherence() -> Iterator[Adherence]:
        files = [judgements.of(*block) for block in blocks]
        rows = records.iterate_rows(folder / "generations.jsonl", Generation)
        for made, *told in zip(rows, *files, strict=True):
            judged = dict(zip(blocks, told, strict=True))
            found = Adherence.of(made, judged[main] if tells else None)
            for block, summary in summaries.items():
                summary.add(made, judged[block], found)
            for name, agreement in readers.items():
                agreement.add(judged[name, run.protocol.judged], found, made.thought)
            yield found

    records.write_rows(folder / "adherence.jsonl", adherence())
    if readers:
        reports = {name: agreement.report() for name, agreement in readers.items()}
        records.write_json(folder / "structure.json", reports)
    metrics = counts.metrics()
    for (name, part), summary in summaries.items():
        if (name, part) != main:
            suffix = part if name == main[0] else name if part == main[1] else f"{name}.{part}"
            rate = summary.metrics()[0]
            metrics.append(replace(rate, metric=f"{rate.metric}.{suffix}"))
    return counts, metrics


def _refuse_unjudged(judgements: Judgements, folder: Path) -> dict[str, Any]:
    """Return for metrics.json the number of texts without a verdict because of a server, and the models that answered.

    Raises RunError if a server did not reply, or gave usable replies to almost none of its requests.
    """
    unsettled, asked = 0, Counter[str]()
    failed, served = defaultdict[str, list[str]](list), defaultdict[str, set[str]](set)
    for row in records.iterate_rows(judgements.path, Judgement):
        replied = row.verdict is not None or bool(row.raw or row.error)
        asked[row.judge] += replied and not row.error.startswith(NOT_GENERATED)
        if row.served:
            served[row.judge].add(row.served)
        if judgements.unsettled(row):
            unsettled += 1
            if not row.raw:
                failed[row.judge].append(row.error)
    for judge, errors in failed.items():
        silent = any(error.startswith(NO_REPLY) for error in errors)
        if silent or len(errors) >= NEARLY_ALL * asked[judge]:
            whom = " at ".join([judge, *judgements.judges[judge].servers])
            raise RunError(
                f"{folder.name}: {len(errors)} of {asked[judge]} judgements by {whom} failed ({errors[0]}); what was "
                "judged is kept, and the same command asks again for the rest"
            )
    return {"unsettled": unsettled, "served": {judge: sorted(names) for judge, names in served.items()}}


def _agreement(run: Run, benchmark: Benchmark, judgements: Judgements, folder: Path) -> None:
    """Write agreement.json: agreement among judges and with human labels, and rates corrected by the labels.

    Verdicts are converted to one meaning: "unsafe" counts as not refused. Raises ValueError if the labels answer
    another question than the judge.
    """
    means, part = benchmark.judge.says, run.protocol.judged

    def told(says: str, verdict: bool | None) -> bool | None:
        same = says == "correct" or (says == "refused") == (means != "unsafe")
        return verdict if verdict is None or same else not verdict

    def generations() -> Iterator[Generation]:
        return records.iterate_rows(folder / "generations.jsonl", Generation)

    verdicts = {
        judge: {
            (made.id, made.sample): told(own.says, row.verdict)
            for made, row in zip(generations(), judgements.of(judge, part), strict=True)
            if made.finish != "error"
        }
        for judge, own in judgements.judges.items()
    }
    if not benchmark.human_labels:
        records.write_json(folder / "agreement.json", judge_report(verdicts, run.seed))
        return
    labels = read_labels(Path(benchmark.human_labels))
    if (labels.says == "correct") != (means == "correct"):
        accepted = "correct" if means == "correct" else "refused or harmful"
        raise ValueError(f"{benchmark.human_labels}: labels of {labels.says!r}; {benchmark.name} needs {accepted}")
    found, others = labels.joined(
        {
            (made.id, made.sample): text_hash(request(made, "prompt"), seen_by_judge(made, part).answer)
            for made in generations()
            if made.finish != "error"
        }
    )
    human = {name: told(labels.says, label.verdict) for name, label in found.items()}
    weights = {name: label.weight for name, label in found.items()}
    categories = {(made.id, made.sample): made.category for made in generations()}
    report = judge_report(verdicts, run.seed, human, categories, weights)
    report["labels"] = {"joined": len(found), "unlabelled": labels.unlabelled, "of_other_texts": others}
    records.write_json(folder / "agreement.json", report)
    if others:
        shown = ", ".join(others[:SHOWN]) + ("" if len(others) <= SHOWN else " and more, all in agreement.json")
        log.warning("judge     %s: %d labels are of other texts and left out: %s", benchmark.name, len(others), shown)
    for judge, against in report["human"].items():
        found_rate = against["corrected"]
        value, low, high = (100 * number for number in found_rate["corrected"].values())
        line = f"{benchmark.name}: {means} {value:.1f} % ({low:.1f} to {high:.1f}) by {judge} and {len(found)} labels"
        log.info("judge     %s%s", line, f"; {note}" if (note := found_rate["note"]) else "")
