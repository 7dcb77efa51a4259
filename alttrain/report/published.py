"""The figures the paper reports, as data: published.csv, a row a figure, each with its source.

Read from the package. `backbone`, `rewrite` and `dataset` are the names of our configs; `benchmark` "mean" is the
paper's own mean over its sets. A value that is not known is empty, and is not guessed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from alttrain.report.runs import read_csv

MEAN = "mean"
"""The benchmark of a figure that is a mean over sets."""


@dataclass(frozen=True)
class Figure:
    """One reported figure: a share, or tokens or hours as `unit` says; nan where it is not known."""

    table: str
    backbone: str
    rewrite: str
    dataset: str
    measure: str
    benchmark: str
    value: float
    unit: str
    source: str
    note: str


@cache
def published() -> tuple[Figure, ...]:
    """All rows of published.csv, unknown figures included."""
    with resources.as_file(resources.files("alttrain.report") / "published.csv") as path:
        return read_figures(path)


def read_figures(path: Path) -> tuple[Figure, ...]:
    """The rows of such a file. Raises ValueError on a value without a source, a share outside 0 to 1, or a repeat."""
    figures = read_csv(path, Figure)
    known: dict[tuple[str, ...], int] = {}
    for line, one in enumerate(figures, 2):
        where = f"{path.name} line {line}"
        if not math.isnan(one.value) and not one.source:
            raise ValueError(f"{where}: value {one.value} without a source; say where it was read, or leave it empty")
        if one.unit == "share" and not math.isnan(one.value) and not 0 <= one.value <= 1:
            raise ValueError(f"{where}: value {one.value} of unit share; expected 0 to 1, not percent")
        key = (one.table, one.backbone, one.rewrite, one.dataset, one.measure, one.benchmark)
        if key in known:
            raise ValueError(f"{where}: the same figure stands in line {known[key]}; keep one of them")
        known[key] = line
    return tuple(figures)


def reported(
    names: Mapping[str, str], measure: str, benchmark: str, figures: Sequence[Figure] | None = None
) -> Figure | None:
    """The known figure for a run's names (backbone, rewrite, dataset), measure and benchmark, or None.

    Backbone and rewrite must be the figure's; so must the dataset, where the figure names one.
    """
    for one in published() if figures is None else figures:
        if (
            (one.backbone, one.rewrite, one.measure, one.benchmark)
            == (names["backbone"], names["rewrite"], measure, benchmark)
            and one.dataset in ("", names["dataset"])
            and not math.isnan(one.value)
        ):
            return one
    return None


def covers(low: float, high: float, figure: float) -> bool:
    """Whether an interval of shares covers a published one, which was rounded to a tenth of a percent."""
    return low - 0.0005 <= figure <= high + 0.0005
