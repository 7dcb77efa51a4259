"""One table of all runs: a row a run, a column for each benchmark's measure, adherence and mean tokens.

Rates are percent with their 95 % interval. Adherence and tokens are taken over all benchmarks' rows. A rate with more
than 5 % undecided rows carries their number; one with more than 5 % rows cut by the token cap says so.
"""

import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich import box
from rich.table import Table

from alttrain.report.comparisons import Compared
from alttrain.report.runs import Cell

MEASURES = {"harmful_rate": "harmful ↓", "over_refusal_rate": "over-refusal ↓", "accuracy": "accuracy ↑"}
POOLED = {"adherence_rate": "adherence ↑", "thought_tokens": "thought tokens", "answer_tokens": "answer tokens"}
WORTH_SAYING = 0.05
DIFFERS = "* differs from the No-train run (McNemar, Holm, 5 %)"
UNNAMED = "offline"
"""The default protocol, which a heading need not name."""
TITLE, NARROW = 16, 9
"""Characters of a line of a run's name, and of a heading."""


@dataclass(frozen=True)
class Grid:
    """The table's text, before it is drawn."""

    columns: list[str]
    rows: list[list[str]]


def grid(cells: Sequence[Cell], compared: Sequence[Compared] = ()) -> Grid:
    """The table as text; a newline in a cell is where the console may break it."""
    differs = {(one.run, one.benchmark, one.metric, one.protocol_hash) for one in compared if one.significant}
    columns = sorted({_column(cell) for cell in cells if _measure(cell) in MEASURES})
    hashes = Counter((benchmark, protocol, metric) for _, benchmark, protocol, metric, _ in columns)
    names = [_heading(column, several=hashes[column[1:4]] > 1) for column in columns]
    rows = []
    for run in dict.fromkeys(cell.run for cell in cells):
        own = [cell for cell in cells if cell.run == run]
        by_column = {_column(cell): cell for cell in own if _measure(cell) in MEASURES}
        row = [_title(own[0]), *(_rate(by_column.get(column), differs) for column in columns)]
        rows.append([*row, *(_pooled([cell for cell in own if cell.metric == metric]) for metric in POOLED)])
    return Grid(["run", *names, *POOLED.values()], rows)


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
    return "\n".join(part for part in parts if part)


def _title(cell: Cell) -> str:
    """The run's name, broken between its parts into lines of at most `TITLE` characters where the parts allow it."""
    lines = [""]
    for part in re.findall(r"[^-]+-?", cell.run):
        if lines[-1] and len(lines[-1] + part) > TITLE:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def console_table(cells: Sequence[Cell], compared: Sequence[Compared] = ()) -> Table:
    """The table for the console: no frames and short lines, so that it fits 80 columns."""
    text = grid(cells, compared)
    caption = "percent with its 95 % interval; ↓ lower is better, ↑ higher is better\n"
    caption += DIFFERS
    table = Table(title="runs", caption=caption, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, column in enumerate(text.columns):
        table.add_column(_short_lines(column), justify="left" if index == 0 else "right", no_wrap=True)
    for row in text.rows:
        table.add_row(*(cell.replace("truncated ", "truncated\n").replace("undecided ", "undecided\n") for cell in row))
        table.add_section()
    return table


def _short_lines(heading: str) -> str:
    """A heading broken at blanks, hyphens and underscores into lines of about `NARROW` characters."""
    lines = (line.replace("_", " ") for line in heading.split("\n"))
    return "\n".join(part for line in lines for part in wrap(line, NARROW, break_long_words=False))


def markdown_table(cells: Sequence[Cell], compared: Sequence[Compared] = ()) -> str:
    """The table as Markdown."""
    text = grid(cells, compared)
    lines = [_line(column.replace("\n", " ") for column in text.columns), "|" + "---|" * len(text.columns)]
    lines += [_line([row[0].replace("\n", ""), *(cell.replace("\n", " ") for cell in row[1:])]) for row in text.rows]
    legend = "Percent, its 95 % interval, rows; ↓ lower is better, ↑ higher is better."
    return "\n".join(lines) + f"\n\n{legend} {DIFFERS}.\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rate(cell: Cell | None, differs: Container[tuple[str, str, str, str]]) -> str:
    if cell is None:
        return ""
    if math.isnan(cell.value):
        return f"undecided {cell.undecided}/{cell.n}"
    mark = "*" if (cell.run, cell.benchmark, cell.metric, cell.protocol_hash) in differs else ""
    text = f"{100 * cell.value:.1f}{mark}\n{100 * cell.low:.1f}–{100 * cell.high:.1f}\nn={cell.n}"
    if cell.undecided > WORTH_SAYING * cell.n:
        text += f"\nundecided {cell.undecided}"
    if cell.truncated > WORTH_SAYING * cell.n:
        text += f"\ntruncated {cell.truncated}"
    return text


def _pooled(cells: Sequence[Cell]) -> str:
    """The mean over all rows of all benchmarks; a rate is shown in percent."""
    n = sum(cell.n for cell in cells)
    if n == 0:
        return ""
    mean = sum(cell.value * cell.n for cell in cells) / n
    return f"{100 * mean:.1f}" if cells[0].metric == "adherence_rate" else f"{mean:.0f}"
