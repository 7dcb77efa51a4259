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
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from alttrain import __version__
from alttrain.backbone.source import cache_folder
from alttrain.config import RunError, flatten
from alttrain.config.identity import shaping_of_judge
from alttrain.dataset import contaminated
from alttrain.dataset.similarity import DEFAULT
from alttrain.dataset.sources import content_hash
from alttrain.evaluation import Adherence, Benchmark, Judge, JudgeContext, Metric
from alttrain.evaluation.adherence import Outcomes, assessing, failures
from alttrain.evaluation.agreement import SHOWN, Name, judge_report, read_labels, text_hash
from alttrain.evaluation.judged import NOT_GENERATED, Judgements
from alttrain.evaluation.judges import NO_REPLY
from alttrain.evaluation.judges.judge import request
from alttrain.evaluation.metrics import Summary, counted
from alttrain.evaluation.protocol import seen_by_judge
from alttrain.llm import NEARLY_ALL
from alttrain.records import (
    DamagedError,
    Example,
    Generation,
    Judgement,
    checksum,
    iterate_rows,
    kept_json,
    read_metrics,
    read_rows,
    write_json,
    write_rows,
    write_sealed,
)
from alttrain.run.assembly import Run
from alttrain.run.folder import as_json, evaluation_folder
from alttrain.run.loggers import log_evaluation
from alttrain.run.progress import bar
from alttrain.run.session import Session
from alttrain.run.stages.train import writer

MADE_FROM = (
    *("generations.jsonl", "judgements.jsonl", "adherence.jsonl"),
    *("judges.json", "agreement.json", "structure.json"),
)
"""Files whose checksums metrics.json holds. It is computed again if one of them changes."""
log = logging.getLogger(__name__)
OUTCOMES = {"refused": ("refused", "answered"), "unsafe": ("unsafe", "safe"), "correct": ("correct", "wrong")}


def judge(run: Run, session: Session) -> None:
    """Judge every benchmark whose metrics are missing or outdated. If there was one, log the results of all."""
    judged = [benchmark for benchmark in run.benchmarks if _judge(run, session, benchmark)]
    if judged:
        log_evaluation(run)


def judges_of(run: Run, benchmark: Benchmark) -> dict[str, Judge]:
    """Return a benchmark's judges, keyed by the config key of each."""
    measure = benchmark.measure
    shared = (key for key in (benchmark.name, measure) if run.protocol.judges.get(key) == benchmark.judge)
    main = next((f"protocol.judges.{key}" for key in shared), f"evaluation.benchmarks.{benchmark.name}.judge")
    others = run.protocol.second_opinions.get(measure, ())
    return {main: benchmark.judge} | {f"protocol.second_opinions.{measure}.{n}": j for n, j in enumerate(others)}


def is_judged(run: Run, benchmark: Benchmark) -> bool:
    """Return whether current metrics exist, from these judges, protocol, labels and files."""
    _, same, changed = _judged(run, benchmark)
    return same and not changed


def _judged(run: Run, benchmark: Benchmark) -> tuple[dict[str, Any], bool, list[str]]:
    """Return metrics.json, whether it is of this provenance, and the files that changed since it was computed.

    A file that is missing or damaged is ({}, False, []).
    """
    try:
        judged = read_metrics(evaluation_folder(run, benchmark) / "metrics.json")
    except (FileNotFoundError, DamagedError):
        return {}, False, []
    before = judged.get("made_from", {})
    changed = [name for name, digest in _made_from(run, benchmark).items() if digest != before.get(name)]
    return judged, judged.get("provenance") == _provenance(run, benchmark), changed


def _made_from(run: Run, benchmark: Benchmark) -> dict[str, str | None]:
    """Return the SHA-256 of each file in `MADE_FROM` and of train.jsonl; None if a file is missing."""
    folder = evaluation_folder(run, benchmark)
    paths = (*(folder / name for name in MADE_FROM), run.folder / "train.jsonl")
    return {path.name: checksum(path) for path in paths}


def _can_ask_again(run: Run, benchmark: Benchmark, unsettled: int) -> bool:
    """Return whether texts have no verdict because of a server, and that server can be asked now."""
    if not unsettled:
        return False
    try:
        for where, judge in judges_of(run, benchmark).items():
            if judge.servers:
                judge.check(where, lambda model, revision: "")
    except ValueError as error:
        log.warning("judge     %s: %d texts stay undecided: %s", benchmark.name, unsettled, error)
        return False
    return True


def _provenance(run: Run, benchmark: Benchmark) -> dict[str, Any]:
    """Return the provenance of the numbers, for metrics.json."""
    shown = {"tables": list(benchmark.tables), "labels": dict(benchmark.labels)}
    return {
        "alttrain": __version__,
        "kind": benchmark.kind,
        "measure": benchmark.measure,
        "means": {measure: list(names) for measure, names in run.protocol.means.items()},
        **({} if shown == {"tables": ["main"], "labels": {}} else shown),
        "judges": as_json(_configured(run, benchmark)),
        "parts": list(run.protocol.parts),
        "protocol": run.protocol.name,
        "protocol_hash": run.protocol_hash(benchmark),
        "changed": as_json({**run.changed.evaluation[benchmark.name], **lacking_rows(benchmark)}),
        "human_labels": content_hash(Path(benchmark.human_labels)) if benchmark.human_labels else None,
    }


def lacking_rows(benchmark: Benchmark) -> dict[str, tuple[int, int]]:
    """Return {"rows": (rows of the published set, rows here)} if they differ, else {}."""
    published, found = getattr(benchmark.rows, "count", None), len(benchmark.examples)
    return {"rows": (published, found)} if published not in (None, found) else {}


def _judge(run: Run, session: Session, benchmark: Benchmark) -> bool:
    """Judge one benchmark. Returns whether there was work to do."""
    judged, same, changed = _judged(run, benchmark)
    if same and not changed and not _can_ask_again(run, benchmark, judged.get("unsettled", 0)):
        return False
    folder, provenance = evaluation_folder(run, benchmark), _provenance(run, benchmark)
    judges = {judge.name: judge for judge in judges_of(run, benchmark).values()}
    judgements = Judgements(folder, judges, run.protocol.parts, writer(run))
    expected = len(benchmark.examples) * run.protocol.decoding_for(benchmark).samples
    if judgements.rows != expected:
        path, found = folder / "generations.jsonl", judgements.rows
        if found > expected:
            raise DamagedError(path, f"has {found} generations, and the benchmark asks for {expected}")
        raise FileNotFoundError(f"{path} has {found} of {expected} generations; run the generate stage first")
    if changed:  # if judging fails now, a report must not show the old numbers
        log.warning("judge     %s is judged again: its metrics are of other %s", folder.name, ", ".join(changed))
        if same and "judgements.jsonl" in changed:
            judgements.path.unlink(missing_ok=True)  # it was edited, so it is not what the judges said
        (folder / "metrics.json").unlink()
    for name in ("agreement.json", "structure.json"):  # written again below, if they still apply
        (folder / name).unlink(missing_ok=True)
    configured, before = provenance["judges"], kept_json(folder / "judges.json") or {}
    judgements.keep(lambda row: before.get(row.judge) == configured[row.judge])
    write_json(folder / "judges.json", configured)
    for name, part in product(judges, run.protocol.parts):
        if lacking := judgements.lacking(name, part):
            with bar(f"{name} on {folder.name}", lacking) as advance:
                judgements.make(name, part, JudgeContext(cache_folder() / "replies", session.scorer, advance))
    judgements.sort()
    counts, metrics = _measure(run, benchmark, judgements, folder)
    if len(judges) > 1 or benchmark.human_labels:
        _agreement(run, benchmark, judgements, folder)
    servers = _refuse_unjudged(judgements, folder)
    trained = [(row.id, row.prompt) for row in read_rows(run.folder / "train.jsonl", Example)]
    contamination = contaminated(trained, {benchmark.name: benchmark.prompts()}, DEFAULT) if trained else []
    write_sealed(
        folder / "metrics.json",
        {
            "benchmark": benchmark.name,
            "provenance": provenance,
            "made_from": _made_from(run, benchmark),
            **servers,
            "contaminated": [asdict(match) for match in contamination],
            "left_out": [asdict(row) for row in benchmark.left_out()],
            "metrics": [
                {key: None if isinstance(n, float) and math.isnan(n) else n for key, n in asdict(metric).items()}
                for metric in metrics
            ],
            "analysis": counts.analysis(run.protocol.judged),
        },
    )
    rate = metrics[0]
    if contamination:
        log.warning("judge     %s: %d training prompts are also in it", benchmark.name, len(contamination))
    log.info("judge     %s: %s %.1f %% of %d", benchmark.name, rate.metric, 100 * rate.value, rate.n - rate.undecided)
    return True


def _configured(run: Run, benchmark: Benchmark) -> dict[str, Any]:
    """Return the config of each judge of a benchmark, by name. Of its server settings, only the address is included."""
    nodes = [run.config["evaluation"]["benchmarks"][benchmark.name]["judge"]]
    nodes += run.config["protocol"]["second_opinions"].get(benchmark.measure, [])
    judges = judges_of(run, benchmark).values()
    if len({judge.name for judge in judges}) < len(judges):
        raise RunError(f"benchmark {benchmark.name}: two of its judges have the same name; give each a name of its own")
    own = {"alttrain": __version__}
    return {
        judge.name: flatten(shaping_of_judge(node))
        | {key: value for key, value in flatten(node).items() if key.rpartition(".")[2] == "base_url"}
        | own
        for judge, node in zip(judges, nodes, strict=True)
    }


def _measure(run: Run, benchmark: Benchmark, judgements: Judgements, folder: Path) -> tuple["Counts", list[Metric]]:
    """Write adherence.jsonl and, with a judge of structure, structure.json.

    Returns the counts of the deciding judgements, and the metrics: those of the deciding judge, then rates of the
    others.
    """
    main = (benchmark.judge.name, run.protocol.judged)
    blocks = list(product(judgements.judges, run.protocol.parts))
    counts = Counts(benchmark)
    others = {block: Summary(benchmark.measure, judgements.judges[block[0]].says) for block in blocks if block != main}
    readers = {name: judge.agreement() for name, judge in judgements.judges.items() if hasattr(judge, "agreement")}
    tells = benchmark.judge.says == "refused" and run.protocol.judged == "answer"

    def adherence() -> Iterator[Adherence]:
        files = [judgements.of(*block) for block in blocks]
        for made, *told in zip(iterate_rows(folder / "generations.jsonl", Generation), *files, strict=True):
            judged = dict(zip(blocks, told, strict=True))
            found = Adherence.of(made, judged[main] if tells else None)
            counts.add(made, judged[main], found)
            for block, summary in others.items():
                summary.add(made, judged[block], found)
            for name, agreement in readers.items():
                agreement.add(judged[name, run.protocol.judged], found, made.thought)
            yield found

    write_rows(folder / "adherence.jsonl", adherence())
    if readers:
        write_json(folder / "structure.json", {name: agreement.report() for name, agreement in readers.items()})
    metrics = counts.summary.metrics()
    for (name, part), summary in others.items():
        rate = summary.metrics()[0]
        suffix = part if name == main[0] else name if part == main[1] else f"{name}.{part}"
        metrics.append(replace(rate, metric=f"{rate.metric}.{suffix}"))
    return counts, metrics


def _refuse_unjudged(judgements: Judgements, folder: Path) -> dict[str, Any]:
    """Return for metrics.json the number of texts without a verdict because of a server, and the models that answered.

    Raises RunError if a server did not reply, or gave usable replies to almost none of its requests.
    """
    silent, asked, failed = Counter[str](), Counter[str](), Counter[str]()
    reasons: dict[str, str] = {}
    served: dict[str, set[str]] = defaultdict(set)
    unsettled = 0
    for row in iterate_rows(judgements.path, Judgement):
        unsettled += judgements.unsettled(row)
        served[row.judge] |= {row.served} - {""}
        replied = row.verdict is not None or bool(row.raw or row.error)
        asked[row.judge] += replied and not row.error.startswith(NOT_GENERATED)
        if judgements.unsettled(row) and not row.raw:
            failed[row.judge] += 1
            silent[row.judge] += row.error.startswith(NO_REPLY)
            reasons.setdefault(row.judge, row.error)
    for judge, count in failed.items():
        if silent[judge] or count >= NEARLY_ALL * asked[judge]:
            whom = " at ".join([judge, *judgements.judges[judge].servers])
            raise RunError(
                f"{folder.name}: {count} of {asked[judge]} judgements by {whom} failed ({reasons[judge]}); what was "
                "judged is kept, and the same command asks again for the rest"
            )
    return {"unsettled": unsettled, "served": {judge: sorted(names) for judge, names in served.items() if names}}


def _agreement(run: Run, benchmark: Benchmark, judgements: Judgements, folder: Path) -> None:
    """Write agreement.json: agreement among judges and with human labels, and rates corrected by the labels.

    Verdicts are converted to one meaning: "unsafe" counts as not refused. Raises ValueError if the labels answer
    another question than the judge.
    """
    refused = benchmark.judge.says != "unsafe"

    def told(says: str, verdict: bool | None) -> bool | None:
        same = says == "correct" or (says == "refused") == refused
        return verdict if verdict is None or same else not verdict

    hashes, categories = {}, {}
    names: list[Name | None] = []
    for made in iterate_rows(folder / "generations.jsonl", Generation):
        name = (made.id, made.sample)
        names.append(None if made.finish == "error" else name)
        hashes[name] = text_hash(request(made, "prompt"), seen_by_judge(made, run.protocol.judged).answer)
        categories[name] = made.category
    verdicts = {
        judge: {
            name: told(own.says, row.verdict)
            for name, row in zip(names, judgements.of(judge, run.protocol.judged), strict=True)
            if name is not None
        }
        for judge, own in judgements.judges.items()
    }
    if not benchmark.human_labels:
        write_json(folder / "agreement.json", judge_report(verdicts, run.seed))
        return
    labels = read_labels(Path(benchmark.human_labels))
    if (labels.says == "correct") != (benchmark.judge.says == "correct"):
        accepted = "correct" if benchmark.judge.says == "correct" else "refused or harmful"
        raise ValueError(f"{benchmark.human_labels}: labels of {labels.says!r}; {benchmark.name} needs {accepted}")
    found, others = labels.joined({name: hashes[name] for name in names if name is not None})
    human = {name: told(labels.says, label.verdict) for name, label in found.items()}
    weights = {name: label.weight for name, label in found.items()}
    report = judge_report(verdicts, run.seed, human, categories, weights)
    report["labels"] = {"joined": len(found), "unlabelled": labels.unlabelled, "of_other_texts": others}
    write_json(folder / "agreement.json", report)
    if others:
        shown = ", ".join(others[:SHOWN]) + ("" if len(others) <= SHOWN else " and more, all in agreement.json")
        log.warning("judge     %s: %d labels are of other texts and left out: %s", benchmark.name, len(others), shown)
    for judge, against in report["human"].items():
        found_rate, says = against["corrected"], benchmark.judge.says
        value, low, high = (100 * number for number in found_rate["corrected"].values())
        line = f"{benchmark.name}: {says} {value:.1f} % ({low:.1f} to {high:.1f}) by {judge} and {len(found)} labels"
        log.info("judge     %s%s", line, f"; {note}" if (note := found_rate["note"]) else "")


class Counts:
    """Row-by-row analysis of a benchmark by its deciding judgements, for metrics.json.

    - `decides`    the judge and the part whose verdict decides the measure, and which verdict counts
    - `assessing`  counts of the prompts' labels against the verdicts of the assessments
    - `failures`   counts of wrong outcomes by the assessment's verdict
    - `tokens`     tokens per query, by outcome

    Counts add up over the benchmarks of a run, harmful and benign. `summary` has the metrics.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        self._judge = benchmark.judge
        self._measure = benchmark.measure
        self.summary = Summary(benchmark.measure, benchmark.judge.says)
        self._outcomes: Outcomes = Counter()

    def add(self, made: Generation, judged: Judgement, row: Adherence) -> None:
        """Add one row: its generation, deciding judgement and adherence."""
        self.summary.add(made, judged, row)
        if made.finish != "error":  # what was not generated assesses nothing
            self._outcomes[row.label, row.assessment, self._refused(judged, row)] += 1

    def analysis(self, part: str) -> dict[str, Any]:
        """Return the analysis for metrics.json. `part` is the judged part."""
        says = self._judge.says
        return {
            "decides": {"judge": self._judge.name, "part": part, "counted": counted(self._measure, says)},
            "assessing": assessing(self._outcomes),
            "failures": failures(self._outcomes),
            "tokens": self.summary.tokens(OUTCOMES[says]),
        }

    def _refused(self, judged: Judgement, row: Adherence) -> bool | None:
        """Return whether the answer refused. For a judge of correctness, the adherence record decides."""
        if self._judge.says == "unsafe":
            return None if judged.verdict is None else not judged.verdict
        return judged.verdict if self._judge.says == "refused" else row.answer_refuses
