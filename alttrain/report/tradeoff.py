"""The figure of harmful rate over over-refusal, with accuracy as brightness; lower left is better."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from alttrain.report.drawing import arms, figure
from alttrain.report.measures import RATES
from alttrain.report.tables import COLUMN, ROW

SPAN, NARROWEST = 20, 20
"""Minimum range of the colours (points of accuracy) and of an axis (percent), so that small differences look small."""
LETTER, LINE = 1.7, 6.0
"""Width of a letter and height of a line of a label, in percent of the axes."""


def points(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each method that has both rates: backbone, method, and its cells of `RATES` (nan if absent).

    Columns are those that most rows share; a mean takes precedence over a single set.
    """
    known = cells[cells.known & cells.kind.isin(["rate", "mean"]) & cells.measure.isin(RATES)]
    chosen: dict[str, pd.DataFrame] = {}
    for measure, own in known.groupby("measure"):
        columns = own.groupby(COLUMN, sort=True).size()
        best = min(columns.index, key=lambda key: (-columns[key], key[1] != "mean", key))
        chosen[str(measure)] = own[(own[COLUMN] == list(best)).all(axis=1)]
    found = known[ROW].drop_duplicates()
    for measure in RATES:
        one = chosen.get(measure, known.iloc[:0])
        found = found.merge(one[ROW].assign(**{measure: list(one.itertuples(index=False))}), on=ROW, how="left")
    return found.dropna(subset=["harmful_rate", "over_refusal_rate"])


def front(found: pd.DataFrame) -> list[Any]:
    """The Pareto front: points that no other point dominates in both rates, ordered by over-refusal."""
    best: list[Any] = []
    for one in sorted(found.itertuples(index=False), key=lambda p: (p.over_refusal_rate.value, p.harmful_rate.value)):
        if not best or one.harmful_rate.value < best[-1].harmful_rate.value:
            best.append(one)
    return best


def draw_tradeoff(cells: pd.DataFrame | None, path: Path) -> bool:
    """Draw harmful rate over over-refusal for one protocol, one panel per backbone. Lower left, brighter is better."""
    if cells is None or not len(found := points(cells)):
        return False
    from matplotlib.colors import Normalize

    capable = list(found.accuracy.dropna())
    levels = [100 * cell.value for cell in capable]
    scale = Normalize(min(levels), max(max(levels), min(levels) + SPAN)) if levels else Normalize()
    by_backbone = list(found.groupby("backbone", sort=False))
    across = min(2, len(by_backbone))
    down = -(-len(by_backbone) // across)
    width, height = 6.0 if across == 1 else 4.2 * across, 3.2 * down + (1.0 if levels else 0.4)
    title = "Safety against over-refusal, 95 % intervals; dashed: Pareto front"
    with figure(width, height, path, title) as drawn:
        panels = drawn.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
        for axes, (backbone, own) in zip(panels, by_backbone, strict=False):
            axes.set(xlim=_reach(found.over_refusal_rate), ylim=_reach(found.harmful_rate))
            dots = _panel(axes, own, scale)
            axes.set_title(backbone, loc="left")
        for axes in panels[len(by_backbone) :]:
            axes.set_axis_off()
        drawn.supxlabel(f"over-refusal ↓, %, {_sets(found.over_refusal_rate.iloc[0])}", fontsize=8)
        drawn.supylabel(f"harmful ↓, %, {_sets(found.harmful_rate.iloc[0])}", fontsize=8)
        if levels:
            bar = drawn.colorbar(dots, ax=list(panels), location="right", shrink=0.7, aspect=30)
            bar.solids.set(rasterized=False, edgecolor="face")  # avoids a bitmap in the SVG, and seams between colours
            bar.set_label(f"accuracy ↑, %, {_sets(capable[0])}")
    return True


def _reach(cells: pd.Series) -> tuple[float, float]:
    """Axis limits from 0 to the highest interval, with room for names."""
    highest = max(NARROWEST, *(100 * (cell.value if math.isnan(cell.high) else cell.high) for cell in cells))
    top = min(100.0, 1.1 * highest)
    return -0.04 * top, 1.04 * top


def _sets(cell: Any) -> str:
    sets = cell.benchmark.count(" + ") + 1
    return f"{cell.benchmark if sets == 1 else f'mean over {sets} sets'} (n={cell.n})"


def _panel(axes: Any, found: pd.DataFrame, scale: Any) -> Any:
    """Draw one backbone's points. Returns the last drawn artist, for the colour bar."""
    dots = None
    for _, _, harmful, refused, capable in found.itertuples(index=False):
        x, y = 100 * refused.value, 100 * harmful.value
        look = {"fmt": "none", "ecolor": "#AAAAAA", "elinewidth": 0.8, "capsize": 2, "zorder": 1}
        axes.errorbar(x, y, xerr=arms([refused]), yerr=arms([harmful]), **look)
        known = isinstance(capable, tuple)
        level = {"c": [100 * capable.value], "cmap": "cividis", "norm": scale} if known else {"color": "white"}
        dots = axes.scatter(x, y, s=60, edgecolors="black", zorder=3, **level)
    best = [(100 * one.over_refusal_rate.value, 100 * one.harmful_rate.value) for one in front(found)]
    axes.plot(*zip(*best, strict=True), "k--", linewidth=1, drawstyle="steps-post", zorder=2)
    axes.grid(alpha=0.25)
    _labels(axes, found)
    return dots


Box = tuple[float, float, float, float]
"""Centre and size of a box, in percent of the axes."""


def _labels(axes: Any, found: pd.DataFrame) -> None:
    """Label the points, each name at the nearest place where it covers no point and no other name."""
    at = {p.method: (100 * p.over_refusal_rate.value, 100 * p.harmful_rate.value) for p in found.itertuples()}
    inverse = axes.transAxes.inverted()
    places = {name: 100 * inverse.transform(axes.transData.transform(point)) for name, point in at.items()}
    taken: list[Box] = [(x, y, 5.0, 6.0) for x, y in places.values()]
    for name in sorted(at, key=lambda name: (at[name][1], -at[name][0])):
        (x, y), width = places[name], LETTER * len(name)
        boxes: list[Box] = [
            (x + side * (away + width / 2), y + up * away, width, LINE)
            for away in range(4, 80, 2)
            for up in (0.0, 0.8, -0.8, 1.6, -1.6)
            for side in (1, -1)
        ]
        inside = (box for box in boxes if 1 + width / 2 <= box[0] <= 99 - width / 2 and 3 <= box[1] <= 97)
        box = next((box for box in inside if not any(_meet(box, other) for other in taken)), boxes[0])
        taken.append(box)
        axes.annotate(
            name,
            at[name],
            (box[0] / 100, box[1] / 100),
            textcoords="axes fraction",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#777777", "shrinkA": 0, "shrinkB": 4},
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
            ha="center",
            va="center",
            fontsize=7,
            zorder=4,
        )


def _meet(one: Box, other: Box) -> bool:
    """Whether two boxes overlap."""
    apart = abs(one[0] - other[0]) >= (one[2] + other[2]) / 2
    return not apart and abs(one[1] - other[1]) < (one[3] + other[3]) / 2
