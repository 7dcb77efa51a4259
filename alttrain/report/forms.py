"""A table as Markdown, and for the console. Both hold the same cells: `lines` of text each."""

import math
import re
from collections.abc import Sequence
from textwrap import wrap

from rich import box
from rich.table import Table
from rich.text import Text

from alttrain.report.entries import Entry, Grid, grids, written
from alttrain.report.legend import COVERED, DIFFERS, FEW, MISSING, NOT_COVERED, legend, marked, marks_legend, missing
from alttrain.report.published import WHY
from alttrain.report.rows import OFFLINE

NARROW, TITLE = 9, 16
"""Characters of a line of a heading and of a row's label on the console."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
MARKUP = re.compile(r"[\\`|<\[*]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown would take for its own; an underscore within a word it does not."""


def plain(text: str) -> str:
    """A name so that Markdown shows each of its characters, on one line and in one cell."""
    return MARKUP.sub(r"\\\g<0>", one_line(text))


def one_line(text: str) -> str:
    """Text without what ends a line or controls a terminal."""
    return CONTROL.sub(" ", text)


def marks(one: Entry) -> str:
    """The marks behind a number."""
    return (DIFFERS if one.differs else "") + (FEW if one.few else "")


def lines(one: Entry, why: bool = False) -> list[str]:
    """What stands in a cell: number, interval, n, what to beware of, the published figure, or with `why` the mark that
    says why there is none."""
    found = []
    if one.known:
        found.append(written(one.value, one.unit) + marks(one))
        if not math.isnan(one.low):
            found.append(f"{written(one.low, one.unit)}–{written(one.high, one.unit)}")
        if one.n:
            found += [f"n={one.n}", *([f"{one.seeds} seeds"] if one.seeds > 1 else [])]
    elif one.command:
        found.append(MISSING)
    found += one.notes
    if not math.isnan(one.published):
        told = {True: f" {COVERED}", False: f" {NOT_COVERED}", None: ""}[one.covered]
        found.append(f"published {written(one.published, one.unit)}{told}")
    elif why and one.known and one.published_why:
        found[-1] += f" {WHY[one.published_why][0]}"
    return found


def markdown(title: str, entries: Sequence[Entry]) -> str:
    """The table as a Markdown document, a section a protocol."""
    parts = [f"# {plain(title)}"]
    found = grids(entries)
    for grid in found:
        named = len(found) > 1 or grid.protocol not in ("", OFFLINE)
        parts.append(_section(grid, named, marked(entries)))
    parts.append("\n".join(f"- {one_line(line)}" for line in legend(entries)))
    if commands := missing(entries):
        parts.append(
            "\n".join([f"{MISSING} is missing. What would fill it:", "", "```", *map(one_line, commands), "```"])
        )
    return "\n\n".join(parts) + "\n"


def _section(grid: Grid, named: bool, why: bool) -> str:
    several = len(grid.backbones) > 1 or bool(grid.backbones[0][0])
    heads = [*(["backbone"] if several else []), "method", *(plain(" ".join(column)) for column in grid.columns)]
    rows = [_line(heads), _line(["---"] * len(heads))]
    for backbone, own in grid.backbones:
        for method, cells in own:
            names = [plain(name) for name in ([backbone, method] if several else [method])]
            rows.append(_line([*names, *(_markdown_cell(one, why) for one in cells)]))
    return "\n".join([*([f"## Protocol {plain(grid.protocol)}", ""] if named else []), *rows])


def _markdown_cell(one: Entry, why: bool) -> str:
    found = lines(one, why)
    if one.known:
        number = written(one.value, one.unit)
        plain = number + marks(one)
        shown = (f"**{number}**" if one.best else number) + marks(one).replace(DIFFERS, f"\\{DIFFERS}")
        found[0] = shown + found[0].removeprefix(plain)
    return re.sub(r"[|<`\[]", r"\\\g<0>", one_line(" ".join(found)))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def console(title: str, entries: Sequence[Entry]) -> list[Table | Text]:
    """The table for the console, a part a protocol, and its legend: no frames and short lines, to fit 80 columns."""
    found = grids(entries)
    parts: list[Table | Text] = [_drawn(title, grid, several=len(found) > 1) for grid in found]
    parts.append(Text("\n".join(marks_legend(entries)), style="dim"))
    if commands := missing(entries):
        parts.append(Text("\n".join([f"{MISSING} is missing. What would fill it:", *(f"  {one}" for one in commands)])))
    return parts


def _drawn(title: str, grid: Grid, several: bool) -> Table:
    named = title if len(grid.backbones) > 1 else f"{title} of {grid.backbones[0][0]}"
    named += f", protocol {grid.protocol}" if several or grid.protocol not in ("", OFFLINE) else ""
    table = Table(title=named, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, heading in enumerate([["method"], *grid.columns]):
        table.add_column(_short(heading), justify="left" if index == 0 else "right", no_wrap=True)
    for backbone, own in grid.backbones:
        if len(grid.backbones) > 1:
            table.add_row(Text(backbone, style="italic"))
        for method, cells in own:
            label = "\n".join(wrap(method.replace("_", " "), TITLE, break_long_words=False))
            table.add_row(label, *(_console_cell(one) for one in cells))
            table.add_section()
    return table


def _short(heading: Sequence[str]) -> str:
    """A heading broken at blanks, hyphens and underscores into lines of about `NARROW` characters."""
    return "\n".join(part for line in heading for part in wrap(line.replace("_", " "), NARROW, break_long_words=False))


def _console_cell(one: Entry) -> Text:
    """A cell's lines; of what is taken over several benchmarks, the number alone."""
    text = Text()
    shown = lines(one)[:1] if one.kind == "pool" else lines(one)
    for number, line in enumerate(shown):
        broken = line.replace("truncated ", "truncated\n").replace("undecided ", "undecided\n")
        broken = broken.replace("published ", "published\n")
        text.append(("\n" if number else "") + broken, style="bold" if one.best and number == 0 else "")
    return text
