"""Run folders -> judged benchmarks, their rows, and one tidy table of all numbers.

`results("outputs")` is the table behind a report: one row for each run, benchmark and measure, with `n`, `undecided`,
`truncated`, the value and its 95 % interval.
"""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import yaml

from alttrain.config import name_fault
from alttrain.evaluation.interventions import JOIN
from alttrain.records import DamagedError, RunDocument, checksum, read_document, read_metrics, write_text
from alttrain.records.files import literal, read_literal
from alttrain.report.escaping import one_line
from alttrain.report.evaluation import Evaluation
from alttrain.report.processes import MANY, second_process

log = logging.getLogger(__name__)

METRICS = [
    "run", "backbone", "dataset", "rewrite", "training", "seed", "benchmark", "metric", "value", "low", "high", "n",
    "undecided", "truncated", "protocol", "protocol_hash", "method", "changed", "judge",
]  # fmt: skip
"""The columns of metrics.csv. `judge` is empty for a number that depends on none."""
COLUMNS = [*METRICS, "order", "called"]
"""The columns of `results`. `order` is the method's place in tables, `called` the measure's name there."""
SAMPLES = [
    "run", "backbone", "method", "seed", "benchmark", "protocol", "id", "sample", "label", "category", "prompt",
    "thought", "answer", "closed", "finish", "thought_tokens", "answer_tokens", "measure", "judge", "part", "says",
    "verdict", "counts", "understanding", "assessment", "continuation", "ordered", "refuses",
]  # fmt: skip
"""The columns of `samples`."""
TEXTS = [
    "run", "backbone", "dataset", "rewrite", "training", "benchmark", "metric", "method", "changed", "baseline",
    "protocol", "protocol_hash", "table", "measure", "called", "kind", "unit", "published_why", "source", "note",
    "lacking", "evaluated", "judge", "judges", "category", "setting", "settings", "benchmarks", "position",
    "made_from",
]  # fmt: skip
"""Text columns in a report's CSV files."""
NO_TRAIN = "no_train"  # the method that is the unmodified backbone
NAMING = ("backbone", "dataset", "rewrite", "training", "method", "tag", "digest")  # what is in a run's name
LAST = 10**6  # the order of a row that has none of its own
JUDGED = ("judgements.jsonl", "judges.json")  # what the judge stage writes before metrics.json
TRIES, PAUSE_S = 20, 0.05  # how often metrics.json is read while these are written, and the seconds between
SHOWN_KEYS, LONGEST = 2, 24  # number of changed keys that a label names, and of characters of a value that it shows
NAMES_JUDGE = (".judge.name", ".judge._target_")  # what a column's heading says already
WEIGHTS, DECODING = "backbone.source", "protocol.decoding."  # a changed key that shapes no hash; what names leave out


@cache
def option(group: str, name: str) -> Mapping[str, Any]:
    """The content of an option of our configs; {} if there is none of this name."""
    path = resources.files("alttrain.conf") / group / f"{name}.yaml"
    return yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}


def evaluations(runs: Path, left_out: set[Path] | None = None) -> list[Evaluation]:
    """All judged benchmarks of all run folders, sorted by run and benchmark, except the folders in `left_out`.

    A benchmark that is being judged, a run with a damaged file, one with a name that would place a report file outside
    its folder, and a copy of another run's folder are also left out: named in the log, and added to `left_out`, which
    keeps them from being named again.
    """
    judged, read = list[Evaluation](), set[str]()
    left_out = set() if left_out is None else left_out
    for record in sorted(path for path in runs.glob("*/run.json") if path.parent not in left_out):
        try:
            found = evaluations_of(record.parent, partial(_settled_metrics, left_out))
            for run in {evaluation.run for evaluation in found}:
                if run in read or (run != record.parent.name and (runs / run / record.name).exists()):
                    raise DamagedError(record, f"run={run!r} is that of another folder", remedy="move the copy away")
                read.add(run)
            judged += found
        except DamagedError as error:
            leave_out(record.parent, error, left_out)
    name_methods(judged)
    name_settings(judged)
    return judged


def read_texts(judged: Sequence[Evaluation]) -> None:
    """Read the rows of judged benchmarks, if they are many with a second process."""
    with second_process([evaluation.pack_texts for evaluation in judged], len(judged) >= MANY) as results_of:
        for evaluation, texts in zip(judged, results_of(), strict=True):
            evaluation.packed_texts[evaluation.decider] = texts


def evaluations_of(run: Path, read: Callable[[Path], dict[str, Any]] = read_metrics) -> list[Evaluation]:
    """The judged benchmarks of a run's folder. Raises DamagedError.

    `read` reads metrics.json; a benchmark for which it returns {} is left out.
    """
    names, judged = read_document(run / "run.json", RunDocument), list[Evaluation]()
    _check_names(run / "run.json", run=names["run"], backbone=names["backbone"])
    for path in sorted(run.glob("evaluation/*/metrics.json")):
        if metrics := read(path):
            judged.append(evaluation := Evaluation(names, path.parent, metrics))
            _check_names(path, benchmark=evaluation.benchmark.replace(JOIN, "_"), protocol=evaluation.protocol)
    return judged


def _settled_metrics(left_out: set[Path], path: Path) -> dict[str, Any]:
    """metrics.json; {}, with a warning, if the verdicts remain others than those that it was made from."""
    if path.parent in left_out:
        return {}
    for attempt in range(TRIES):
        time.sleep(PAUSE_S if attempt else 0)
        judged = read_metrics(path)
        if all(checksum(path.with_name(name)) == judged["made_from"].get(name) for name in JUDGED):
            return judged
    log.warning("report    left out, being written or damaged (its command judges it again): %s", path.parent)
    left_out.add(path.parent)
    return {}


def method_name(names: Mapping[str, Any]) -> str:
    """What a run's method is called everywhere, from run.json: its label and its changes."""
    untrained = not names["method"] and names["rewrite"] == names["training"] == "none"
    label = option("method", NO_TRAIN)["method"]["label"] if untrained else names["label"]
    return one_line(f"{label}, changed: {changes(changed)}" if (changed := names["changed"]) else label)


def name_methods(judged: Sequence[Evaluation]) -> None:
    """Name the methods, and add to those of one backbone that are called the same what differs: data, training, tag."""
    by_name = defaultdict[tuple[str, str], list[Evaluation]](list)
    for evaluation in judged:
        evaluation.method = method_name(evaluation.names)
        by_name[str(evaluation.names["backbone"]), evaluation.method].append(evaluation)
    for alike in by_name.values():
        parts = ("dataset", "training", "tag", "digest", "method")
        differ = [part for part in parts if len({evaluation.names[part] for evaluation in alike}) > 1]
        for evaluation in alike:
            additions = filter(None, (evaluation.names[part] for part in differ))
            evaluation.method = " ".join([evaluation.method, *additions])


def name_settings(judged: Sequence[Evaluation]) -> None:
    """Add to the evaluations of a benchmark by a protocol the settings in which their ways (protocol hashes) differ."""
    by_benchmark = defaultdict[tuple[str, str], dict[str, list[Evaluation]]](lambda: defaultdict(list))
    for evaluation in judged:
        protocol, benchmark, digest = evaluation.key
        by_benchmark[protocol, benchmark][digest].append(evaluation)
    for ways in by_benchmark.values():
        changed = {way: _shared([e.provenance["changed"] for e in alike]) for way, alike in ways.items()}
        published = {key: _published(pair[0]) for pairs in changed.values() for key, pair in pairs.items()}
        settings = {way: published | pairs for way, pairs in changed.items()}
        same = {*_shared([*settings.values()]), WEIGHTS}
        for way, alike in ways.items():
            differ = {key.removeprefix(DECODING): pair for key, pair in settings[way].items() if key not in same}
            differ = {key: pair for key, pair in differ.items() if not key.endswith(NAMES_JUDGE)}
            for evaluation in alike:
                evaluation.setting = changes(differ)


def _published(value: Any) -> tuple[Any, Any]:
    """The pair of a setting that was not changed. A text may depend on the backbone, and is not shown."""
    return value, "published" if isinstance(value, str) and " " in value else value


def _shared(ways: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, Sequence[Any]]:
    """The changes that are in all of these, by key."""
    first, *others = ways
    return {key: pair for key, pair in first.items() if all(key in way and way[key][1] == pair[1] for way in others)}


def _check_names(path: Path, **names: str) -> None:
    """Raise DamagedError for names that cannot be part of a report's file names."""
    for key, name in names.items():
        if fault := name_fault(name):
            raise DamagedError(path, f"{key}={name!r}: {fault}", remedy="delete the folder, or put the name right")


def leave_out(run: Path, error: DamagedError, left_out: set[Path]) -> None:
    """Leave a run out of the report, and log which and why."""
    left_out.add(run)
    log.warning("report    left out %s: %s", run.name, error)


def results(output_dir: str | Path = "outputs") -> pd.DataFrame:
    """All numbers of an output folder: a row for each run, benchmark and measure, sorted by run and benchmark.

    Rates are shares of 1. `value`, `low` and `high` are nan if every text is undecided. Raises FileNotFoundError if the
    folder has no runs/.
    """
    return tidy(evaluations(_runs(output_dir)))


def _runs(output_dir: str | Path) -> Path:
    runs = Path(output_dir) / "runs"
    if not runs.is_dir():
        raise FileNotFoundError(f"{runs} is not there: give the output folder of your runs, such as outputs")
    return runs


def samples(output_dir: str | Path = "outputs") -> pd.DataFrame:
    """Every judged text of an output folder: a row for each run, benchmark, prompt and sample (`SAMPLES`: the columns).

    `verdict` is the deciding judge's, whose True means `says`; `counts` says whether the text counts towards the
    benchmark's own measure. Both are None if undecided. The columns from `understanding` on are what the offline parser
    reads in the thought. Raises FileNotFoundError if the folder has no runs/.
    """
    rows = []
    for evaluation in evaluations(_runs(output_dir)):
        texts, names = evaluation.texts(), {**evaluation.names, "method": evaluation.method}
        names |= evaluation.names_of_row() | evaluation.decider._asdict()
        for generation in evaluation.generations():
            read = texts[generation.id, generation.sample]
            verdicts = {"verdict": read.verdict, "counts": evaluation.counts(read.verdict)}
            rows.append(msgspec.structs.asdict(read) | names | vars(generation) | verdicts)
    return pd.DataFrame(rows, columns=SAMPLES)


def tidy(judged: Iterable[Evaluation]) -> pd.DataFrame:
    """The numbers of judged benchmarks, in the given order."""
    rows = []
    for evaluation in judged:
        views, changed = evaluation.views(), changes(evaluation.names["changed"])
        for metric in evaluation.metrics_json["metrics"]:
            made = evaluation.names_of_row() | {"judge": evaluation.judge_of(name := metric["metric"])}
            if view := views.get(name):  # by another judge, or of another part
                made = view.names_of_row()
            names = {**evaluation.names, "method": evaluation.method, "changed": changed}
            rows.append({**names, **metric, **made, "called": evaluation.label_of(name)})
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(("value", "low", "high"), float))


def changes(changed: Mapping[str, Sequence[Any]]) -> str:
    """The changes from the published method: up to two keys with this run's values, and the number of further keys."""
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, (_, value) in changed.items()}
    ordered = sorted(
        values.items(), key=lambda pair: (pair[0].endswith("._target_"), not pair[0].endswith(".name"), pair)
    )
    shown = [f"{k}={v if len(v) <= LONGEST else v[:LONGEST] + '…'}" for k, v in ordered[:SHOWN_KEYS]]
    more = len(changed) - SHOWN_KEYS
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV. A nan is an empty cell, and no text can act as a formula."""
    texts = frame.select_dtypes(exclude=["number", "bool"]).columns
    frame = frame.assign(**{name: frame[name].map(literal) for name in texts})
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values=[""])
    return frame.assign(**{name: frame[name].fillna("").map(read_literal) for name in TEXTS if name in frame})
