"""Every run's metrics as tidy cells: one row for each run, benchmark and metric."""

import csv
import io
import json
import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from alttrain.config import name_fault
from alttrain.records import DamagedError, Names, read_json, read_metrics, write_text

log = logging.getLogger(__name__)

SNAPSHOT = re.compile(r"\.report\.[^/]*\.part/")

Row = TypeVar("Row")
"""A frozen dataclass of strings, integers, floats and booleans."""
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""How a text begins that a spreadsheet would compute, or that `literal` made of one."""
TOLD, LONGEST = 2, 24
"""Changed keys that a label names, and characters of a value that it shows."""


@dataclass(frozen=True)
class Cell:
    """One metric of one benchmark in one run; the columns of metrics.csv."""

    run: str
    backbone: str
    dataset: str
    rewrite: str
    training: str
    seed: int
    benchmark: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    undecided: int
    truncated: int
    protocol: str = ""
    protocol_hash: str = ""
    method: str = ""
    changed: str = ""


@dataclass(frozen=True)
class Evaluation:
    """One judged benchmark of one run: `names` are run.json's, `judged` is metrics.json, beside which the rows are."""

    names: dict[str, Any]
    folder: Path
    judged: dict[str, Any]
    checked: set[str] = field(default_factory=set, compare=False)
    """Its files of rows whose checksums were found to be those that metrics.json has."""

    @property
    def run(self) -> str:
        """The run's name."""
        return str(self.names["run"])

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return str(self.judged["benchmark"])

    @property
    def protocol(self) -> dict[str, str]:
        """The protocol's name and the hash of all that shapes the numbers; two hashes never share a column."""
        provenance = self.judged.get("provenance", {})
        return {key: provenance.get(key, "") for key in ("protocol", "protocol_hash")}

    @property
    def changed(self) -> dict[str, Sequence[Any]]:
        """What its evaluation changed of the protocol and the benchmark: key -> their value, and this one's."""
        return dict(self.judged.get("provenance", {}).get("changed", {}))

    @property
    def analysis(self) -> dict[str, Any]:
        """The counts beside the metrics; empty where an older version judged."""
        return dict(self.judged.get("analysis", {}))


def evaluations(runs: Path, left_out: Collection[Path] = ()) -> list[Evaluation]:
    """All judged benchmarks of all run folders but those left out, sorted by run and benchmark.

    A run is left out, too, and named in the log, where a file is damaged or says a name that would lead a file of the
    report out of its folder.
    """
    found: list[Evaluation] = []
    for record in sorted(runs.glob("*/run.json")):
        if record.parent in left_out:
            continue
        try:
            found += _judged(record)
        except DamagedError as error:
            tell_left_out(record.parent, error)
    return found


def _judged(record: Path) -> list[Evaluation]:
    """The judged benchmarks of one run. Raises DamagedError."""
    names = read_json(record, Names)
    _check_names(record, {key: names[key] for key in ("run", "backbone")})
    found = []
    for path in sorted(record.parent.glob("evaluation/*/metrics.json")):
        found.append(one := Evaluation(names, path.parent, read_metrics(path)))
        protocol = one.protocol["protocol"]  # none where an older version judged
        _check_names(path, {"benchmark": one.benchmark} | ({"protocol": protocol} if protocol else {}))
    return found


def _check_names(path: Path, names: Mapping[str, Any]) -> None:
    """They become names of the report's files."""
    for key, name in names.items():
        if fault := name_fault(name):
            raise DamagedError(path, f"{key}={name!r}: {fault}", remedy="delete the folder, or put the name right")


def tell_left_out(run: Path, error: DamagedError) -> None:
    """Name a run that no report can hold, and why; the file that is named is the run's, not the snapshot's."""
    log.warning("report    left out %s: %s", run.name, SNAPSHOT.sub("", str(error)))


def collect(runs: Path) -> list[Cell]:
    """Cells of all run folders that have been judged, sorted by run and benchmark."""
    return cells_of(evaluations(runs))


def cells_of(judged: Iterable[Evaluation]) -> list[Cell]:
    """The cells of judged benchmarks, in their order."""
    cells = []
    for one in judged:
        names = {key: one.names[key] for key in ("run", "backbone", "dataset", "rewrite", "training", "seed")}
        names |= {"method": one.names.get("method", ""), "changed": changes(one.names.get("changed", {}))}
        for metric in one.judged["metrics"]:
            numbers: dict[str, Any] = {k: math.nan if value is None else value for k, value in metric.items()}
            made: dict[str, Any] = {**names, "benchmark": one.benchmark, **numbers, **one.protocol}
            cells.append(Cell(**made))
    return cells


def changes(changed: Mapping[str, Sequence[Any]]) -> str:
    """What differs from what was published: up to two keys with this run's values, names first, and how many more."""
    values = {key: own if isinstance(own, str) else json.dumps(own) for key, (_, own) in changed.items()}
    told = [
        f"{k}={v if len(v) <= LONGEST else v[:LONGEST] + '…'}" for k, v in sorted(values.items(), key=_named)[:TOLD]
    ]
    more = len(changed) - TOLD
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def _named(pair: tuple[str, str]) -> tuple[bool, str]:
    return not pair[0].endswith(".name"), pair[0]


def literal(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not compute: what looks like a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"\r(?!\n)", "\n", value)  # which csv would leave unquoted
    if not FORMULA.match(value):
        return value
    try:
        float(value)  # a number has a sign, and no harm
    except ValueError:
        return f"'{value}"
    return value


def write_csv(path: Path, row_type: type[Row], rows: Iterable[Row]) -> None:
    """Rows as CSV, a column a field; a value that cannot be computed is an empty cell. Texts are `literal`."""
    names = [field.name for field in fields(row_type)]  # type: ignore[arg-type]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: getattr(row, name) for name in names}
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else literal(v) for k, v in values.items()})
    write_text(path, text.getvalue())


def read_csv(path: Path, row_type: type[Row]) -> list[Row]:
    """The rows `write_csv` wrote; an empty cell of a number is nan."""
    types = {field.name: field.type for field in fields(row_type)}  # type: ignore[arg-type]

    def value(name: str, text: str) -> Any:
        if types[name] is bool:
            return text == "True"
        if types[name] is str:
            return text[1:] if text.startswith("'") and FORMULA.match(text) else text
        return int(text) if types[name] is int else float(text or "nan")

    with path.open(encoding="utf-8", newline="") as file:
        return [row_type(**{name: value(name, text) for name, text in row.items()}) for row in csv.DictReader(file)]
