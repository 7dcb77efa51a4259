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
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from alttrain import __version__, records
from alttrain.backbone.source import cache_folder
from alttrain.config import RunError, flatten, name_fault
from alttrain.config.identity import shaping_of_judge
from alttrain.dataset import contaminated
from alttrain.dataset.similarity import DEFAULT
from alttrain.dataset.sources import content_hash
from alttrain.evaluation import Adherence, Benchmark, Judge, JudgeContext, Metric
from alttrain.evaluation.adherence import Outcomes, answer_refused, assessing, failures
from alttrain.evaluation.agreement import SHOWN, judge_report, read_labels, text_hash
from alttrain.evaluation.judged import JUDGING, NOT_GENERATED, TRUE_MEANS, Judgements, own_name, shaping_verdicts
from alttrain.evaluation.judges import NO_REPLY
from alttrain.evaluation.judges.judge import Says, request
from alttrain.evaluation.metrics import Summary, counted
from alttrain.evaluation.protocol import SAYS, protocol_hash, seen_by_judge
from alttrain.llm import NEARLY_ALL
from alttrain.records import DamagedError, Example, Generation, Judgement
from alttrain.run.assembly import Run
from alttrain.run.folder import as_json, evaluation_folder, source_texts
from alttrain.run.loggers import log_evaluation
from alttrain.run.progress import bar
from alttrain.run.session import Session
from alttrain.run.stages.generate import asked
from alttrain.run.stages.train import writer

DOCUMENTS = ("judgements.jsonl", "adherence.jsonl", "judges.json", "agreement.json", "structure.json")
"""The files that metrics.json is made from and that this stage makes."""
NAME_DIGITS = 6
OUTCOMES = {"refused": ("refused", "answered"), "unsafe": ("unsafe", "safe"), "correct": ("correct", "wrong")}
log = logging.getLogger(__name__)


def judge(run: Run, session: Session) -> None:
    """Judge every benchmark whose metrics are missing or outdated. If there was one, log the results of all."""
    judged = [benchmark for benchmark in run.evaluated if _judge(run, session, benchmark)]
    if judged:
        log_evaluation(run)


def _judge(run: Run, session: Session, benchmark: Benchmark) -> bool:
    """Judge one benchmark. Returns whether there was work to do."""
    if benchmark.intervention and not asked(run, benchmark):
        return False  # it applies to no prompt
    before, same, changed = _judged(run, benchmark)
    if same and not changed and not _can_ask_again(run, benchmark, before.get("unsettled", 0)):
        return False
    folder, provenance = evaluation_folder(run, benchmark), _provenance(run, benchmark)
    if (folder / JUDGING / "metrics.json").exists():  # a kill came while the files were put in place
        _put(folder)
        return _judge(run, session, benchmark)
    judges = {judge.name: judge for judge in judges_of(run, benchmark).values()}
    configured = {name: config | {TRUE_MEANS: judges[name].says} for name, config in provenance["judges"].items()}
    entries = records.kept_json(folder / "judges.json", dict[str, dict[str, Any]]) or {}
    names, known = _renamed(configured, entries, before)
    hashes = {name: protocol_hash(config) for name, config in known.items()}
    judgements = Judgements(folder, judges, run.protocol.parts, names, hashes, writer(run))
    found, expected = judgements.rows, len(asked(run, benchmark))
    path = folder / "generations.jsonl"
    if found > expected:
        raise DamagedError(path, f"has {found} generations, and the benchmark asks for {expected}")
    if found < expected:
        raise FileNotFoundError(f"{path} has {found} of {expected} generations; run the generate stage first")
    if changed:  # if judging fails now, a report must not show the old numbers
        log.warning("judge     %s is judged again: its metrics are of other %s", folder.name, ", ".join(changed))
        if same and "judgements.jsonl" in changed:
            (folder / "judgements.jsonl").unlink(missing_ok=True)  # it was edited, so it is not what the judges said
        (folder / "metrics.json").unlink()
    for name in DOCUMENTS:  # of an attempt that failed
        (folder / JUDGING / name).unlink(missing_ok=True)
    judgements.find()
    for name, part in product(judges, run.protocol.parts):
        if lacking := judgements.lacking(name, part):
            with bar(f"{name} on {folder.name}", found, found - lacking) as advance:
                judgements.make(name, part, JudgeContext(cache_folder() / "replies", session.scorer, advance))
    judgements.write()
    servers = _refuse_unjudged(judgements, folder)
    shown = {name: known[name] for name, _ in judgements.blocks}
    records.write_json(folder / JUDGING / "judges.json", shown)
    counts, metrics = _measure(run, benchmark, judgements, {name: one[TRUE_MEANS] for name, one in shown.items()})
    analysis, texts = counts.analysis(run.protocol.judged), source_texts(run, benchmark)
    analysis["others"] = [
        {
            "judge": name,
            "part": part,
            "counted": counted(benchmark.measure, shown[name][TRUE_MEANS]),
            "protocol_hash": run.protocol_hash(benchmark, shaping_verdicts(shown[name]), part, texts),
        }
        for name, part in judgements.blocks
        if (name, part) != (benchmark.judge.name, run.protocol.judged)
    ]
    rows = (
        [] if benchmark.intervention else records.read_rows(run.folder / "train.jsonl", Example)
    )  # its prompts are compared for the benchmark without it
    trained = [(row.id, row.prompt) for row in rows]
    contamination = contaminated(trained, {benchmark.name: benchmark.prompts()}, DEFAULT) if trained else []
    records.write_sealed(
        folder / JUDGING / "metrics.json",
        {
            "benchmark": benchmark.name,
            "provenance": provenance,
            "made_from": _made_from(run, folder, folder / JUDGING),
            **servers,
            "contaminated": [asdict(match) for match in contamination],
            "left_out": [asdict(row) for row in benchmark.left_out()],
            "metrics": [
                {key: None if isinstance(n, float) and math.isnan(n) else n for key, n in number.items()}
                for number in map(asdict, metrics)
            ],
            "analysis": analysis,
        },
    )
    _put(folder)
    rate = metrics[0]
    if contamination:
        log.warning("judge     %s: %d training prompts are also in it", benchmark.name, len(contamination))
    decided, others = rate.n - rate.undecided, ", ".join(name for name in shown if name != benchmark.judge.name)
    told = f"{rate.metric} {100 * rate.value:.1f} % of {decided} by {benchmark.judge.name}"
    log.info("judge     %s: %s%s", benchmark.name, told, f"; also judged by {others}" if others else "")
    return True


def _put(folder: Path) -> None:
    """Put the complete files of judging/ in place, metrics.json last; remove those that no longer apply.

    Files of judges at work whose verdicts are thereby in place are removed; others may wait for their judge.
    """
    made = folder / JUDGING
    judged = records.read_metrics(made / "metrics.json")
    made_from, analysis = judged["made_from"], judged["analysis"]
    for name in DOCUMENTS:
        if made_from[name] is None:
            (folder / name).unlink(missing_ok=True)
        elif (made / name).exists():
            (made / name).replace(folder / name)
    hashes = {name: protocol_hash(entry) for name, entry in records.read_json(folder / "judges.json").items()}
    blocks = [(one["judge"], one["part"]) for one in (analysis["decides"], *analysis["others"])]
    placed = {own_name(part, hashes[judge]) for judge, part in blocks}
    for path in made.glob("*.jsonl"):
        if path.stem in placed:
            path.unlink()
    (made / "metrics.json").replace(folder / "metrics.json")
    with suppress(OSError):  # not empty
        made.rmdir()


def _renamed(
    configured: Mapping[str, Mapping[str, Any]], before: Mapping[str, dict[str, Any]], judged: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Mapping[str, Any]]]:
    """Return (name in judgements.jsonl -> its name from now on, name from now on -> the judge's entry of judges.json).

    A judge that is configured has the name of its config. Another one whose name is thereby taken gets the hash of its
    config after it. A judge that differs only in its server's address or alttrain's version is the same judge, and is
    left out, since it judges again. `judged` is metrics.json, which tells what True meant in older files.
    """
    known, names = dict(configured), dict[str, str]()
    decides = judged.get("analysis", {}).get("decides", {})
    for name, entry in before.items():
        means = entry.get(TRUE_MEANS)
        if means is None and name == decides.get("judge"):
            measure = judged["metrics"][0]["metric"]
            means = next(says for says in SAYS[measure] if counted(measure, says) is decides["counted"])
        new = next(
            (new for new, config in configured.items() if shaping_verdicts(config) == shaping_verdicts(entry)), None
        )
        if new is not None:
            if entry.items() <= configured[new].items():
                names[name] = new
        elif means is None or name_fault(name):
            log.warning(
                "judge     left out the verdicts of %r, by an older version, which did not say what true means",
                name,
            )
        else:
            digest = protocol_hash(shaping_verdicts(entry))[:NAME_DIGITS]
            own = name.removesuffix(f"-{digest}")
            names[name] = f"{own}-{digest}" if own in known else own
            known[names[name]] = entry | {TRUE_MEANS: means}
    return names, known


def judges_of(run: Run, benchmark: Benchmark) -> dict[str, Judge]:
    """Return a benchmark's judges, keyed by the config key of each."""
    measure = benchmark.measure
    shared = (key for key in (benchmark.base, measure) if run.protocol.judges.get(key) == benchmark.judge)
    main = next((f"protocol.judges.{key}" for key in shared), f"evaluation.benchmarks.{benchmark.base}.judge")
    others = run.protocol.second_opinions.get(measure, ())
    keyed: Iterable[tuple[object, Judge]] = others.items() if isinstance(others, Mapping) else enumerate(others)
    return {main: benchmark.judge} | {f"protocol.second_opinions.{measure}.{key}": judge for key, judge in keyed}


def _each(second_opinions: Any) -> list[Any]:
    """Return the entries of a list, or of what the command line makes of judge@protocol.second_opinions.MEASURE.0."""
    return list(second_opinions.values() if isinstance(second_opinions, Mapping) else second_opinions)


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


def _made_from(run: Run, folder: Path, made: Path | None = None) -> dict[str, str | None]:
    """Return the SHA-256 of each file that metrics.json is made from; None if it is missing.

    `made` is the folder of those that the judge stage makes, if it is not the evaluation's.
    """
    paths = (folder / "generations.jsonl", *((made or folder) / name for name in DOCUMENTS), run.folder / "train.jsonl")
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
    nodes += _each(run.config["protocol"]["second_opinions"].get(benchmark.measure, []))
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
        "protocol_hash": run.protocol_hash(benchmark, texts=source_texts(run, benchmark)),
        "changed": as_json({**run.changed.evaluation[benchmark.base], **lacking_rows(benchmark)}),
        "human_labels": content_hash(Path(benchmark.human_labels)) if benchmark.human_labels else None,
    }


def _intervention(run: Run, benchmark: Benchmark) -> dict[str, Any]:
    """Return an intervention's name, its settings, and the number of texts that it does not apply to."""
    name = benchmark.intervention_name
    every = len(benchmark.examples) * run.protocol.decoding_for(benchmark).samples
    return {
        "name": name,
        "of": benchmark.base,
        "of_hash": run.protocol_hash(benchmark.plain),
        "left_out": every - len(asked(run, benchmark)),
        "settings": flatten(shaping_of_judge(run.config["intervention"][name])),
    }


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
        """Add one row."""
        super().add(made, judged, found)
        if made.finish != "error":  # what was not generated assesses nothing
            self._outcomes[found.label, found.assessment, answer_refused(self._judge.says, judged.verdict, found)] += 1

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


def _measure(
    run: Run, benchmark: Benchmark, judgements: Judgements, says: Mapping[str, Says]
) -> tuple[Counts, list[Metric]]:
    """Write adherence.jsonl and, where they apply, structure.json and agreement.json.

    `says` is what each judge's True means. Returns the counts of the deciding judgements, and the metrics: those of the
    deciding judge, then rates of the others, and the agreement with each.
    """
    main, made = (benchmark.judge.name, run.protocol.judged), judgements.path.parent
    blocks, generated = judgements.blocks, made.parent / "generations.jsonl"
    counts = Counts(benchmark)
    summaries = {block: Summary(benchmark.measure, says[block[0]]) for block in blocks}
    summaries[main] = counts
    readers = {name: own for name, judge in judgements.judges.items() if (own := judge.agreement())}
    tells = benchmark.judge.says == "refused" and run.protocol.judged == "answer"

    def adherence() -> Iterator[Adherence]:
        files = [judgements.of(*block) for block in blocks]
        rows = records.iterate_rows(generated, Generation)
        for one, *told in zip(rows, *files, strict=True):
            judged = dict(zip(blocks, told, strict=True))
            found = Adherence.of(one, judged[main] if tells else None)
            for block, summary in summaries.items():
                summary.add(one, judged[block], found)
            for name, agreement in readers.items():
                agreement.add(judged[name, run.protocol.judged], found, one.thought)
            yield found

    records.write_rows(made / "adherence.jsonl", adherence())
    if readers:
        reports = {name: agreement.report() for name, agreement in readers.items()}
        records.write_json(made / "structure.json", reports)
    metrics = counts.metrics()
    for (name, part), summary in summaries.items():
        if (name, part) != main:
            suffix = part if name == main[0] else name if part == main[1] else f"{name}.{part}"
            rate = summary.metrics()[0]
            metrics.append(replace(rate, metric=f"{rate.metric}.{suffix}"))
    comparable = {name: says[name] for name, part in blocks if part == main[1]}
    if len(comparable) > 1 or benchmark.human_labels:
        for pair in _agreement(run, benchmark, judgements, comparable)["kappa"]:
            if pair["first"] == main[0]:
                counts_of = {"n": pair["n"] + pair["undecided"], "undecided": pair["undecided"], "truncated": 0}
                metrics.append(Metric(f"kappa.{pair['second']}", **pair["coefficient"], **counts_of))
    return counts, metrics


def _refuse_unjudged(judgements: Judgements, folder: Path) -> dict[str, Any]:
    """Return for metrics.json the number of texts without a verdict because of a server, and the models that answered.

    Raises RunError if a server did not reply, or gave usable replies to almost none of its requests.
    """
    unsettled, asked = 0, Counter[str]()
    failed, served = defaultdict[str, list[str]](list), defaultdict[str, set[str]](set)
    for row in records.iterate_rows(judgements.path, Judgement):
        if (row.judge, row.part) not in judgements.asked:  # not asked
            continue
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


def _agreement(run: Run, benchmark: Benchmark, judgements: Judgements, judges: Mapping[str, Says]) -> dict[str, Any]:
    """Write agreement.json: agreement among judges and with human labels, and rates corrected by the labels.

    `judges` has what the True of each judge of the deciding part means. Verdicts are converted to one meaning: "unsafe"
    counts as not refused. Returns the report. Raises ValueError if the labels answer another question than the judge.
    """
    path, generated = judgements.path.with_name("agreement.json"), judgements.path.parents[1] / "generations.jsonl"
    means, part = benchmark.judge.says, run.protocol.judged

    def told(says: str, verdict: bool | None) -> bool | None:
        same = says == "correct" or (says == "refused") == (means != "unsafe")
        return verdict if verdict is None or same else not verdict

    def generations() -> Iterator[Generation]:
        return records.iterate_rows(generated, Generation)

    verdicts = {
        judge: {
            (made.id, made.sample): told(says, row.verdict)
            for made, row in zip(generations(), judgements.of(judge, part), strict=True)
            if made.finish != "error"
        }
        for judge, says in judges.items()
    }
    if not benchmark.human_labels:
        report = judge_report(verdicts, run.seed)
        records.write_json(path, report)
        return report
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
    records.write_json(path, report)
    if others:
        shown = ", ".join(others[:SHOWN]) + ("" if len(others) <= SHOWN else " and more, all in agreement.json")
        log.warning("judge     %s: %d labels are of other texts and left out: %s", benchmark.name, len(others), shown)
    for judge, against in report["human"].items():
        found_rate = against["corrected"]
        value, low, high = (100 * number for number in found_rate["corrected"].values())
        line = f"{benchmark.name}: {means} {value:.1f} % ({low:.1f} to {high:.1f}) by {judge} and {len(found)} labels"
        log.info("judge     %s%s", line, f"; {note}" if (note := found_rate["note"]) else "")
    return report
