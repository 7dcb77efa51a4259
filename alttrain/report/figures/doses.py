"""Rates over the number of training examples, or of harmless ones, with intervals; hollow, dotted: published."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alttrain.report.entries import Entry, grids
from alttrain.report.figures.drawing import MARKERS, arms, colour, figure

LINEAR = 50
"""Examples up to which the axis is linear: there may be none."""
DODGE = 0.03
"""Between the lines' markers, so that intervals do not cover each other."""


def draw(title: str, entries: Sequence[Entry], amounts: Mapping[tuple[str, str], tuple[str, int]], path: Path) -> bool:
    """Draw one protocol's rows; `amounts` are each row's line and place on it by (backbone, label). False for none."""
    found = grids(entries)
    if not found or not any(one.known and (one.backbone, one.method) in amounts for one in entries):
        return False
    (grid,) = found
    rows = [
        (backbone, *amounts[backbone, method], cells)
        for backbone, own in grid.backbones
        for method, cells in own
        if (backbone, method) in amounts
    ]
    names = list(dict.fromkeys((backbone, line) for backbone, line, _, _ in rows))
    count = len(grid.columns)
    with figure(1.2 + 2.3 * count, 3.2, path) as drawn:
        panels = drawn.subplots(1, count, squeeze=False)[0]
        for index, (axes, heading) in enumerate(zip(panels, grid.columns, strict=True)):
            for number, named in enumerate(names):
                on_line = [(amount, cells[index]) for *line, amount, cells in rows if tuple(line) == named]
                own = sorted(on_line, key=lambda pair: pair[0])
                _line(axes, number, ", ".join(named), own, aside=DODGE * (number - (len(names) - 1) / 2))
            ticks = sorted({amount for _, _, amount, _ in rows})
            axes.set_xticks([_place(tick) for tick in ticks], [f"{tick:,}" for tick in ticks], rotation=45)
            axes.margins(x=0.08, y=0.1)
            axes.set_ylim(bottom=0)
            axes.set_title("\n".join(heading), loc="left")
            axes.set_xlabel("training examples")
            axes.grid(alpha=0.25)
        panels[0].set_ylabel("%")
        told = "; hollow, dotted: published" if any(not math.isnan(one.published) for one in entries) else ""
        drawn.suptitle(f"{title}, with 95 % intervals{told}", x=0.01, ha="left", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower left", ncols=min(4, count))
    return True


def _place(amount: int) -> float:
    """Where an amount stands on the axis: linear at first, by its logarithm further on."""
    return amount / LINEAR if amount <= LINEAR else 1 + math.log10(amount / LINEAR)


def _line(axes: Any, number: int, name: str, own: Sequence[tuple[int, Entry]], aside: float) -> None:
    known = [(amount, one) for amount, one in own if one.known]
    reach = [arms(one.value, one.low, one.high) for _, one in known]
    axes.errorbar(
        [_place(amount) + aside for amount, _ in known],
        [100 * one.value for _, one in known],
        yerr=[[below[0] for below, _ in reach], [above[0] for _, above in reach]],
        color=colour(number),
        marker=MARKERS[number % len(MARKERS)],
        capsize=2,
        linewidth=1.2,
        markersize=4,
        elinewidth=0.8,
        label=name,
    )
    reported = [(amount, one.published) for amount, one in own if not math.isnan(one.published)]
    if reported:
        axes.plot(
            [_place(amount) + aside for amount, _ in reported],
            [100 * figure for _, figure in reported],
            color=colour(number),
            marker=MARKERS[number % len(MARKERS)],
            markerfacecolor="white",
            linestyle=":",
            linewidth=1,
            markersize=5,
        )
