"""Run folders -> judged benchmarks, their rows, and one tidy table of all numbers.

`results("outputs")` is the table behind a report: one row for each run, benchmark and measure, with `n`, `undecided`,
`truncated`, the value and its 95 % interval. It reads run.json and metrics.json of every evaluation.
`Evaluation.verdicts`, `tokens` and `thoughts` read the files of rows, and only the fields that they need.
"""

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import msgspec
import pandas as pd
import yaml

from alttrain.config import name_fault
from alttrain.evaluation.adherence import ASSESSED, Adherence, assessment_rates
from alttrain.records import DamagedError, Names, parse_rows, read_bytes, read_json, read_metrics, write_text
from alttrain.report.escaping import literal, read_literal
from alttrain.report.measures import CAUSES, MEASURES, base

log = logging.getLogger(__name__)

METRICS = [
    *("run", "backbone", "dataset", "rewrite", "training", "seed", "benchmark", "metric", "value", "low", "high", "n"),
    *("undecided", "truncated", "protocol", "protocol_hash", "method", "changed"),
]
"""The columns of metrics.csv."""
COLUMNS = [*METRICS, "label", "order", "called"]
"""The columns of `results`. In tables, `label` and `order` are the method's name and place, and `called` the measure's
name."""
TEXTS = [
    *("run", "backbone", "dataset", "rewrite", "training", "benchmark", "metric", "method", "changed", "baseline"),
    *("protocol", "protocol_hash", "table", "measure", "called", "kind", "unit", "published_why", "source", "note"),
    *("lacking", "evaluated"),
]
"""Text columns in a report's CSV files."""
LAST = 10**6
"""The order of a row that has none of its own."""
SNAPSHOT = re.compile(r"\.report\.[^/]*\.part/")
SHOWN_KEYS, LONGEST = 2, 24
"""Number of changed keys that a label names, and of characters of a value that it shows."""
REMEDY = "run the judge stage again"
Row = TypeVar("Row")
Made = tuple[str, str, str]
"""How a number was made: (protocol, benchmark, protocol hash)."""
Text = tuple[str, int]
"""The key of a verdict: (id of the prompt, sample)."""
Verdicts = dict[Text, bool | None]


class Judged(msgspec.Struct, gc=False):
    """A row of judgements.jsonl."""

    id: str
    judge: str
    verdict: bool | None
    value: float | None = None
    part: str = "answer"
    sample: int = 0


class Tokens(msgspec.Struct, gc=False):
    """A row of generations.jsonl, without its texts."""

    id: str
    label: str
    thought_tokens: int
    answer_tokens: int
    sample: int = 0
    finish: str = "stop"


class Thought(msgspec.Struct, gc=False):
    """A row of adherence.jsonl."""

    id: str
    label: str
    understanding: bool
    assessment: str | None
    continuation: str | None
    ordered: bool
    answer_refuses: bool | None = None
    sample: int = 0

    adheres: ClassVar[Any] = Adherence.adheres  # one definition of the property


class Decides(NamedTuple):
    """The judge and the part that decide a benchmark's measure. `counted` is the verdict that counts towards it."""

    measure: str
    judge: str
    part: str
    counted: bool

    @property
    def says(self) -> str:
        """What the judge's True means: correct, unsafe or refused."""
        unsafe = self.measure == "harmful_rate" and self.counted
        return "correct" if self.measure == "accuracy" else "unsafe" if unsafe else "refused"


@cache
def option(group: str, name: str) -> Mapping[str, Any]:
    """The content of an option of our configs; {} if there is none of this name."""
    path = resources.files("alttrain.conf") / group / f"{name}.yaml"
    return yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}


class Evaluation:
    """One judged benchmark of one run, whose rows are in `folder`.

    - `names`                   run.json; `run` is the run's name, and `seed` its seed
    - `judged`                  metrics.json; `measure` is the benchmark's own measure, the first in it
    - `made`                    how the numbers were made; numbers made in different ways never share a column
    - `provenance`, `analysis`  of metrics.json; empty if an older version judged
    - `tables`, `labels`        the tables that show the benchmark, and the names of its measures there, if given
    - `decides`                 what decides the measure; None if an older version judged, which did not record it
    """

    def __init__(self, names: dict[str, Any], folder: Path, judged: dict[str, Any]) -> None:
        self.names, self.folder, self.judged = names, folder, judged
        self.run, self.seed = str(names["run"]), int(names["seed"])
        self.benchmark, self.measure = str(judged["benchmark"]), str(judged["metrics"][0]["metric"])
        self.provenance: dict[str, Any] = judged.get("provenance", {})
        self.analysis: dict[str, Any] = judged.get("analysis", {})
        self.protocol, digest = (str(self.provenance.get(key, "")) for key in ("protocol", "protocol_hash"))
        self.made: Made = self.protocol, self.benchmark, digest
        named = {"tables", "labels"} & self.provenance.keys()
        shown = self.provenance if named else option("benchmark", re.sub("^multijail_.*", "multijail", self.benchmark))
        self.tables: Sequence[str] = shown.get("tables", ("main",))  # older versions did not record these two
        self.labels: Mapping[str, str] = shown.get("labels", {})
        found = self.analysis.get("decides")
        self.decides = Decides(self.measure, found["judge"], found["part"], found["counted"]) if found else None
        self._checked: set[str] = set()  # files of rows whose checksums have been verified against metrics.json

    def called(self, measure: str) -> str:
        """A measure's name in tables."""
        return self.labels.get(measure) or MEASURES[base(measure)].label if base(measure) in MEASURES else measure

    def metric(self, name: str) -> dict[str, Any] | None:
        """A metric by name, as in metrics.json."""
        return next((metric for metric in self.judged["metrics"] if metric["metric"] == name), None)

    def judgements(self) -> list[Judged]:
        """All verdicts of all judges."""
        return self._rows("judgements.jsonl", Judged)

    def deciding(self) -> dict[Text, Judged]:
        """The judgement of each text that decides the measure."""
        decides = self.decides
        return {
            (row.id, row.sample): row
            for row in self.judgements()
            if decides and (row.judge, row.part) == (decides.judge, decides.part)
        }

    def verdicts(self) -> Verdicts:
        """Whether each text counts towards the measure; None if undecided."""
        counted = self.decides and self.decides.counted
        return {text: None if row.verdict is None else row.verdict is counted for text, row in self.deciding().items()}

    def scores(self) -> dict[Text, float | None]:
        """The graded score of each text by the deciding judge."""
        return {text: row.value for text, row in self.deciding().items()}

    def tokens(self) -> list[Tokens]:
        """The token counts of each text."""
        return self._rows("generations.jsonl", Tokens)

    def thoughts(self) -> list[Thought]:
        """The adherence record of each thought; empty if an older version judged."""
        return self._rows("adherence.jsonl", Thought) if (self.folder / "adherence.jsonl").exists() else []

    def refusals(self, rows: Sequence[Thought]) -> list[bool | None]:
        """Whether each answer refused, by the judge if it judges refusals, else by the adherence record."""
        if not self.analysis:
            return [None] * len(rows)
        if self.measure == "accuracy":
            return [row.answer_refuses for row in rows]
        counts = self.verdicts()
        found = (counts.get((row.id, row.sample)) for row in rows)
        return [verdict if verdict is None or self.measure == "over_refusal_rate" else not verdict for verdict in found]

    def whole(self, name: str, row_type: type[Row], wanted: Sequence[bool]) -> list[Row]:
        """The selected rows of a file with all their fields. `wanted` has one entry per row."""
        if not any(wanted):
            return []
        path = self.folder / name
        lines = filter(bytes.strip, read_bytes(path).split(b"\n"))
        return parse_rows(b"\n".join(line for line, one in zip(lines, wanted, strict=True) if one), row_type, path)

    def _rows(self, name: str, row_type: type[Row]) -> list[Row]:
        """All rows of a file. Raises DamagedError if metrics.json was made from another version of it."""
        path, made_from = self.folder / name, self.judged.get("made_from", {})
        try:
            content = read_bytes(path)
        except FileNotFoundError as error:
            raise DamagedError(path, "is not there", remedy=REMEDY) from error
        if name in made_from and name not in self._checked:
            if hashlib.sha256(content).hexdigest() != made_from[name]:
                raise DamagedError(path, "is not what metrics.json was made from", remedy=REMEDY)
            self._checked.add(name)
        return parse_rows(content, row_type, path)


def evaluations(runs: Path, left_out: Collection[Path] = ()) -> list[Evaluation]:
    """All judged benchmarks of all run folders except those in `left_out`, sorted by run and benchmark.

    A run with a damaged file, or with a name that would place a report file outside its folder, is also left out and
    named in the log.
    """
    found: list[Evaluation] = []
    for record in sorted(runs.glob("*/run.json")):
        try:
            found += _judged(record) if record.parent not in left_out else []
        except DamagedError as error:
            warn_left_out(record.parent, error)
    return found


def _judged(record: Path) -> list[Evaluation]:
    """The judged benchmarks of one run. Raises DamagedError."""
    names = read_json(record, Names)
    _check_names(record, {key: names[key] for key in ("run", "backbone")})
    found = []
    for path in sorted(record.parent.glob("evaluation/*/metrics.json")):
        found.append(one := Evaluation(names, path.parent, read_metrics(path)))
        _check_names(path, {"benchmark": one.benchmark} | ({"protocol": one.protocol} if one.protocol else {}))
    return found


def _check_names(path: Path, names: Mapping[str, Any]) -> None:
    """Raise DamagedError for names that cannot be part of a report's file names."""
    for key, name in names.items():
        if fault := name_fault(name):
            raise DamagedError(path, f"{key}={name!r}: {fault}", remedy="delete the folder, or put the name right")


def warn_left_out(run: Path, error: DamagedError) -> None:
    """Log which run is left out of the report, and why. The message names the run's file, not the snapshot's."""
    log.warning("report    left out %s: %s", run.name, SNAPSHOT.sub("", str(error)))


def results(output_dir: str | Path = "outputs") -> pd.DataFrame:
    """All numbers of an output folder: a row for each run, benchmark and measure, sorted by run and benchmark.

    Rates are shares of 1. `value`, `low` and `high` are nan if every text is undecided. Raises FileNotFoundError if the
    folder has no runs/.
    """
    runs = Path(output_dir) / "runs"
    if not runs.is_dir():
        raise FileNotFoundError(f"{runs} is not there: give the output folder of your runs, such as outputs")
    return tidy(evaluations(runs))


def tidy(judged: Iterable[Evaluation]) -> pd.DataFrame:
    """The numbers of judged benchmarks with the columns of `results`, in the given order."""
    rows = [
        {"method": "", **one.names, "changed": changes(one.names.get("changed", {})), "benchmark": one.benchmark}
        | {
            **metric,
            "protocol": one.protocol,
            "protocol_hash": one.made[2],
            "label": label_of(one.names),
            "order": one.names.get("order", LAST),
        }
        | {"called": one.called(metric["metric"])}
        for one in judged
        for metric in one.judged["metrics"]
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(("value", "low", "high"), float))


def label_of(names: Mapping[str, Any]) -> str:
    """The method's name in tables, or the rewrite's if the run has no method."""
    return str(names.get("label") or names.get("method") or names["rewrite"])


def changes(changed: Mapping[str, Sequence[Any]]) -> str:
    """The changes from the published method: up to two keys with this run's values, and the number of further keys."""
    values = {key: own if isinstance(own, str) else json.dumps(own) for key, (_, own) in changed.items()}
    ordered = sorted(values.items(), key=lambda pair: (not pair[0].endswith(".name"), pair[0]))
    shown = [f"{k}={v if len(v) <= LONGEST else v[:LONGEST] + '…'}" for k, v in ordered[:SHOWN_KEYS]]
    more = len(changed) - SHOWN_KEYS
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def structure(judged: Sequence[Evaluation]) -> pd.DataFrame:
    """structure.csv: for each run and protocol, the assessment as a classifier of requests, and the causes of failures.

    Counts are summed over benchmarks, since harmful and harmless prompts come from different ones. `harmful_n` and
    `benign_n` count prompts with a verdict on the answer.
    """
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in judged:
        if {"assessing", "failures"} <= one.analysis.keys():
            grouped.setdefault((one.run, one.protocol), []).append(one.analysis)
    rows = []
    for (run, protocol), own in grouped.items():
        counts = {name: sum(one["assessing"][name] for one in own) for name in ASSESSED}
        row: dict[str, Any] = {"run": run, "protocol": protocol, **counts, "undecided": 0}
        for name, rate in assessment_rates(counts).items():
            row |= zip((name, f"{name}_low", f"{name}_high"), rate, strict=True)
        for outcome, label in (("answered", "harmful"), ("refused", "benign")):
            failed = [found for one in own for found in one["failures"] if found["label"] == label]
            row |= {f"{outcome}_{cause}": sum(found[cause] for found in failed) for cause in CAUSES}
            row[f"{label}_n"] = sum(found["n"] for found in failed)
            row["undecided"] += sum(found["undecided"] for found in failed)
        rows.append(row)
    return pd.DataFrame(rows, columns=STRUCTURE)


STRUCTURE = [
    *("run", "protocol", "precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high"),
    *("false_alarms", "false_alarms_low", "false_alarms_high", *ASSESSED, "harmful_n"),
    *(f"answered_{cause}" for cause in CAUSES),
    *("benign_n", *(f"refused_{cause}" for cause in CAUSES), "undecided"),
]
"""The columns of structure.csv."""


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV. A nan is an empty cell, and no text can act as a formula."""
    words = frame.select_dtypes(exclude=["number", "bool"]).columns
    frame = frame.assign(**{name: frame[name].map(literal) for name in words})
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values=[""])
    return frame.assign(**{name: frame[name].fillna("").map(read_literal) for name in TEXTS if name in frame})
