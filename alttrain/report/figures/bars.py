"""A table's rates as bars with their intervals, a panel a column; published figures are diamonds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alttrain.report.entries import Entry, grids
from alttrain.report.figures.drawing import BEFORE, COLOURS, arms, figure


def draw(title: str, entries: Sequence[Entry], path: Path) -> bool:
    """Draw one protocol's rows; False where no row has a rate."""
    found = grids(entries)
    if not found or not any(one.known for one in entries):
        return False
    (grid,) = found
    several = len(grid.backbones) > 1
    rows: list[tuple[str, list[Entry]]] = []
    for backbone, own in grid.backbones:
        rows += [(backbone, [])] if several else []
        rows += [(method, cells) for method, cells in own if any(one.known for one in cells)]
    count = len(grid.columns)
    with figure(1.6 + 1.7 * count, 0.9 + 0.22 * len(rows), path) as drawn:
        panels = drawn.subplots(1, count, sharey=True, squeeze=False)[0]
        for index, (axes, heading) in enumerate(zip(panels, grid.columns, strict=True)):
            for place, (method, cells) in enumerate(rows):
                if cells:
                    _bar(axes, place, cells[index], plain=method.startswith("No-train"))
            axes.set_xlim(0, 102)
            axes.tick_params(axis="y", length=0)
            axes.set_title("\n".join(heading), loc="left", fontsize=8)
            axes.set_xlabel("%")
            axes.grid(axis="x", alpha=0.25)
        panels[0].set_yticks(range(len(rows)), [name for name, _ in rows])
        for text, (_, cells) in zip(panels[0].get_yticklabels(), rows, strict=True):
            text.set_fontweight("normal" if cells else "bold")
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        drawn.suptitle(f"{title}, with 95 % intervals{_diamonds(entries)}", x=0.01, ha="left", fontsize=9)
    return True


def _bar(axes: Any, place: int, one: Entry, plain: bool) -> None:
    if one.known:
        axes.barh(
            place,
            100 * one.value,
            xerr=None if math.isnan(one.low) else arms(one.value, one.low, one.high),
            color=BEFORE if plain else COLOURS[4],
            height=0.7,
            error_kw={"elinewidth": 0.9, "capsize": 2},
        )
    if not math.isnan(one.published):
        axes.plot(
            100 * one.published,
            place,
            marker="D",
            markersize=5,
            markerfacecolor=COLOURS[1],
            markeredgecolor="white",
            markeredgewidth=0.7,
            linestyle="none",
            clip_on=False,
            zorder=5,
        )


def _diamonds(entries: Sequence[Entry]) -> str:
    return "; diamonds: published" if any(not math.isnan(one.published) for one in entries) else ""
