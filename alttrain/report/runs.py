"""Every run's metrics as tidy cells: one row for each run, benchmark and metric."""

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from alttrain.records import write_text


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


def collect(runs: Path) -> list[Cell]:
    """Cells of all run folders that have been judged, sorted by run and benchmark."""
    cells = []
    for record in sorted(runs.glob("*/run.json")):
        run = json.loads(record.read_text(encoding="utf-8"))
        for path in sorted(record.parent.glob("evaluation/*/metrics.json")):
            judged = json.loads(path.read_text(encoding="utf-8"))
            protocol = {key: judged.get("provenance", {}).get(key, "") for key in ("protocol", "protocol_hash")}
            for metric in judged["metrics"]:
                numbers: dict[str, Any] = {k: math.nan if value is None else value for k, value in metric.items()}
                cells.append(Cell(**run, benchmark=judged["benchmark"], **numbers, **protocol))
    return cells


def write_csv(path: Path, cells: Iterable[Cell]) -> None:
    """metrics.csv, with the columns of `Cell`; a value that cannot be computed is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Cell)], lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        row = asdict(cell)
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    write_text(path, text.getvalue())
