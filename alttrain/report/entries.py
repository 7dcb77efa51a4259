"""A table's cells, tidy: a row of tables/<table>.csv each. The forms a table is written in are all made from these.

Entries stand row by row and, within a row, column by column; every row of a protocol has the same columns.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from alttrain.evaluation.statistics import UNKNOWN
from alttrain.report.columns import MEASURES, Column, called
from alttrain.report.comparisons import LEVEL
from alttrain.report.measuring import NAN, Measured
from alttrain.report.published import Figure, covers

WORTH_SAYING = 0.05
"""Share of undecided or truncated texts from which a cell says so."""
NAMED = 2
"""Missing sets that a cell names."""


@dataclass(frozen=True)
class Entry:
    """One cell: our number with its interval and what is needed to trust it, the published one, and what would fill it.

    `benchmark` and `protocol_hash` join several with " + "; then `kind` says whether rates were averaged (mean) or
    prompts taken together (pool). `n` is the texts that the number is over, of all seeds; `undecided` ones are not
    among them, `truncated` ones are. `difference` is from No-train, `p_holm` adjusted over all contrasts of the report.
    `published_why` says why no published figure stands here, and `lacking` which sets a mean is without; `evaluated` is
    what the evaluation changed of its protocol and benchmarks. `command` stands where there is no number and a run
    would give one.
    """

    table: str
    protocol: str
    backbone: str
    method: str
    measure: str
    kind: str
    benchmark: str
    protocol_hash: str
    unit: str
    value: float
    low: float
    high: float
    n: int
    seeds: int
    undecided: int
    truncated: int
    best: bool
    difference: float
    p: float
    p_holm: float
    detectable: float
    published: float
    published_why: str
    source: str
    lacking: str
    evaluated: str
    command: str

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return not math.isnan(self.value)

    @property
    def differs(self) -> bool:
        """Whether it differs from No-train at 5 % among all contrasts of the report."""
        return self.p_holm < LEVEL

    @property
    def few(self) -> bool:
        """Whether so small a difference would be missed more than one time in five."""
        return not self.differs and abs(self.difference) < self.detectable

    @property
    def covered(self) -> bool | None:
        """Whether the interval covers the published figure; None where there are not both."""
        if not self.known or math.isnan(self.low) or math.isnan(self.published):
            return None
        return covers(self.low, self.high, self.published)

    @property
    def notes(self) -> list[str]:
        """Which sets a mean lacks, and what more than 5 % of the texts are: undecided, truncated."""
        if sets := self.lacking.split(" + ") if self.lacking else []:
            more = f" and {len(sets) - NAMED} more" if len(sets) > NAMED else ""
            return [f"without {', '.join(sets[:NAMED])}{more}"]
        texts = self.n + self.undecided
        if not self.known and texts:
            return [f"undecided {self.undecided}/{texts}"]
        counts = {"undecided": self.undecided, "truncated": self.truncated}
        return [f"{what} {count}" for what, count in counts.items() if count > WORTH_SAYING * texts]


def entry(
    table: str,
    backbone: str,
    method: str,
    column: Column,
    measured: Measured | None,
    figure: tuple[Figure | None, str] = (None, ""),
    command: str = "",
    lacking: str = "",
) -> Entry:
    """A cell, before the table's best are marked; `figure` is the published one, or why there is none."""
    own = measured or Measured(UNKNOWN)
    return Entry(
        table=table,
        protocol=column.protocol,
        backbone=backbone,
        method=method,
        measure=column.measure,
        kind=column.kind,
        benchmark=column.benchmark,
        protocol_hash=column.protocol_hash,
        unit=column.of.unit,
        best=False,
        published=figure[0].value if figure[0] else NAN,
        published_why=figure[1],
        source=figure[0].source if figure[0] else "",
        lacking=lacking,
        evaluated="",
        command="" if measured else command,
        **own.estimate._asdict(),
        n=own.n,
        seeds=own.seeds,
        undecided=own.undecided,
        truncated=own.truncated,
        **own.from_baseline._asdict(),
    )


def finished(entries: Sequence[Entry]) -> list[Entry]:
    """The table's entries with the best of each backbone's column marked."""
    best: dict[tuple[str, ...], list[float]] = {}
    for one in entries:
        if one.known:
            best.setdefault(_column_of_backbone(one), []).append(one.value)
    made = []
    for one in entries:
        values, better = best.get(_column_of_backbone(one), []), MEASURES[one.measure.partition(".")[0]].better
        winner = max(better * value for value in values) if values else NAN
        marked = len(set(values)) > 1 and better != 0 and one.known and better * one.value == winner
        made.append(replace(one, best=marked))
    return made


def _column_of_backbone(one: Entry) -> tuple[str, ...]:
    return (one.protocol, one.backbone, one.measure, one.kind, one.benchmark, one.protocol_hash)


@dataclass(frozen=True)
class Grid:
    """One protocol's part of a table: headings, each a few lines, and for each backbone its labelled rows."""

    protocol: str
    columns: list[list[str]]
    backbones: list[tuple[str, list[tuple[str, list[Entry]]]]]


def grids(entries: Iterable[Entry]) -> list[Grid]:
    """The entries as rows and columns, a grid a protocol, in their order."""
    by_protocol: dict[str, dict[str, dict[str, list[Entry]]]] = {}
    for one in entries:
        by_protocol.setdefault(one.protocol, {}).setdefault(one.backbone, {}).setdefault(one.method, []).append(one)
    made = []
    for protocol, backbones in by_protocol.items():
        first = next(iter(next(iter(backbones.values())).values()))
        rows = [(backbone, list(own.items())) for backbone, own in backbones.items()]
        made.append(Grid(protocol, [_heading(one, first) for one in first], rows))
    return made


def _heading(one: Entry, row: Sequence[Entry]) -> list[str]:
    """Measure, whose verdict if not the deciding one, benchmark, and the hash where two columns are called so."""
    _, _, variant = one.measure.partition(".")
    sets = one.benchmark.count(" + ") + 1
    over = {"rate": one.benchmark, "mean": f"mean of {sets}"}.get(one.kind, "")
    named = (one.measure, one.kind, one.benchmark)
    alike = [other for other in row if (other.measure, other.kind, other.benchmark) == named]
    digest = one.protocol_hash if len(alike) > 1 else ""
    return [part for part in (called(one.measure, one.benchmark).heading, variant, over, digest) if part]


def written(value: float, unit: str) -> str:
    """A number in its unit: shares in percent."""
    if unit == "share":
        return f"{100 * value:.1f}"
    return f"{value:.2f}" if unit == "hours" else f"{value:.1f}" if value < 10 else f"{value:,.0f}"
