"""The table of all runs, seed by seed: a row a run, a column for each benchmark's measure, adherence and mean tokens.

Rates are percent with their 95 % interval. Adherence and tokens are taken over all benchmarks' rows. A rate with more
than 5 % undecided rows carries their number; one with more than 5 % rows cut by the token cap says so.
"""

import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence

from alttrain.report.comparisons import Compared, starred
from alttrain.report.forms import plain
from alttrain.report.runs import Cell

MEASURES = {"harmful_rate": "harmful ↓", "over_refusal_rate": "over-refusal ↓", "accuracy": "accuracy ↑"}
POOLED = {"adherence_rate": "adherence ↑", "thought_tokens": "thought tokens", "answer_tokens": "answer tokens"}
WORTH_SAYING = 0.05
UNNAMED = "offline"
"""The default protocol, which a heading need not name."""


Column = tuple[int, str, str, str, str]
"""Order of the measure, benchmark, protocol, metric and the protocol's hash: numbers made alike share a column."""


def _column(cell: Cell) -> Column:
    return list(MEASURES).index(_measure(cell)), cell.benchmark, cell.protocol, cell.metric, cell.protocol_hash


def _measure(cell: Cell) -> str:
    """The measure of a metric: "harmful_rate" of "harmful_rate.thought", which another part or judge decides."""
    return cell.metric.partition(".")[0]


def _heading(column: Column, several: bool) -> str:
    """Measure, whose verdict if not the deciding one, benchmark, protocol if it has a name, hash where it decides."""
    _, benchmark, protocol, metric, digest = column
    measure, _, variant = metric.partition(".")
    parts = [MEASURES[measure], variant, benchmark, "" if protocol == UNNAMED else protocol, digest if several else ""]
    return plain(" ".join(part for part in parts if part))


def markdown_table(cells: Sequence[Cell], compared: Sequence[Compared] = ()) -> str:
    """The table as Markdown."""
    differs = {(one.run, one.benchmark, one.metric, one.protocol_hash) for one in compared if one.significant}
    columns = sorted({_column(cell) for cell in cells if _measure(cell) in MEASURES})
    hashes = Counter((benchmark, protocol, metric) for _, benchmark, protocol, metric, _ in columns)
    names = [_heading(column, several=hashes[column[1:4]] > 1) for column in columns]
    heads = ["run", *names, *POOLED.values()]
    lines = [_line(heads), "|" + "---|" * len(heads)]
    by_run: dict[str, list[Cell]] = {}
    for cell in cells:
        by_run.setdefault(cell.run, []).append(cell)
    for run, own in by_run.items():
        by_column = {_column(cell): cell for cell in own if _measure(cell) in MEASURES}
        row = [plain(run), *(_rate(by_column.get(column), differs) for column in columns)]
        lines.append(_line([*row, *(_pooled([cell for cell in own if cell.metric == metric]) for metric in POOLED)]))
    legend = "Percent, its 95 % interval, rows with a verdict; ↓ lower is better, ↑ higher is better."
    stars = [one.seeds for one in compared if one.significant]
    return "\n".join(lines) + f"\n\n{legend}{f' * {starred(stars)}' if stars else ''}\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rate(cell: Cell | None, differs: Container[tuple[str, str, str, str]]) -> str:
    if cell is None:
        return ""
    if math.isnan(cell.value):
        return f"undecided {cell.undecided}/{cell.n}"
    mark = "*" if (cell.run, cell.benchmark, cell.metric, cell.protocol_hash) in differs else ""
    text = f"{100 * cell.value:.1f}{mark} {100 * cell.low:.1f}–{100 * cell.high:.1f} n={cell.n - cell.undecided}"
    if cell.undecided > WORTH_SAYING * cell.n:
        text += f" undecided {cell.undecided}"
    if cell.truncated > WORTH_SAYING * cell.n:
        text += f" truncated {cell.truncated}"
    return text


def _pooled(cells: Sequence[Cell]) -> str:
    """`pooled`; a rate is shown in percent."""
    mean = pooled(cells)
    if math.isnan(mean):
        return ""
    return f"{100 * mean:.1f}" if cells[0].metric == "adherence_rate" else f"{mean:.0f}"


def pooled(cells: Iterable[Cell]) -> float:
    """The mean over the decided rows of all benchmarks; nan where there are none."""
    known = [(cell.value, cell.n - cell.undecided) for cell in cells if not math.isnan(cell.value)]
    n = sum(count for _, count in known)
    return sum(value * count for value, count in known) / n if n else math.nan
