"""The figure of safety against over-refusal: harmful rate over over-refusal, with accuracy as brightness."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from alttrain.report.drawing import arms, figure
from alttrain.report.measures import RATES
from alttrain.report.tables import COLUMN, ROW

SPAN, NARROWEST = 20, 20
"""Minimum range of the colours (points of accuracy) and of an axis (percent), so that small differences look small."""
LETTER, LINE = 1.7, 6.0  # width of a letter and height of a line of a label, in percent of the axes


def points(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each method that has both rates: backbone, method, and its cells of `RATES` (nan if absent).

    Columns are those that most rows share; a mean takes precedence over a single set.
    """
    known = cells[cells.known & cells.kind.isin(["rate", "mean"]) & cells.measure.isin(RATES)]
    found = known[ROW].drop_duplicates()
    for measure in RATES:
        own = known[known.measure == measure]
        if len(own):
            columns = own.groupby(COLUMN).size()
            best = min(columns.index, key=lambda key: (-columns[key], key[1] != "mean", key))
            own = own[(own[COLUMN] == list(best)).all(axis=1)]
        found = found.merge(own[ROW].assign(**{measure: list(own.itertuples(index=False))}), on=ROW, how="left")
    return found.dropna(subset=["harmful_rate", "over_refusal_rate"])


def front(found: pd.DataFrame) -> list[Any]:
    """The Pareto front: points that no other point dominates in both rates, ordered by over-refusal."""
    best: list[Any] = []
    for one in sorted(found.itertuples(index=False), key=_at):
        if not best or one.harmful_rate.value < best[-1].harmful_rate.value:
            best.append(one)
    return best


def _at(point: Any) -> tuple[float, float]:
    """Where a point is: over-refusal and harmful rate in percent."""
    return 100 * point.over_refusal_rate.value, 100 * point.harmful_rate.value


def draw_tradeoff(cells: pd.DataFrame | None, path: Path) -> bool:
    """Draw harmful rate over over-refusal for one protocol, one panel per backbone. Lower left, brighter is better."""
    if cells is None or not len(found := points(cells)):
        return False
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    capable = list(found.accuracy.dropna())
    levels = [100 * cell.value for cell in capable]
    scale = Normalize(min(levels), max(max(levels), min(levels) + SPAN)) if levels else Normalize()
    backbones = list(found.groupby("backbone", sort=False))
    across = min(2, len(backbones))
    down = -(-len(backbones) // across)
    width, height = 6.0 if across == 1 else 4.2 * across, 3.2 * down + (1.0 if levels else 0.4)
    title = "Safety against over-refusal, 95 % intervals; dashed: Pareto front"
    with figure(width, height, path, title, across, down, sharex=True, sharey=True) as (drawn, panels):
        for axes, (backbone, own) in zip(panels, backbones, strict=False):
            axes.set(xlim=_reach(found.over_refusal_rate), ylim=_reach(found.harmful_rate))
            axes.set_title(backbone, loc="left")
            for one in own.itertuples(index=False):
                reach = {"xerr": arms([one.over_refusal_rate]), "yerr": arms([one.harmful_rate])}
                axes.errorbar(*_at(one), **reach, fmt="none", ecolor="#AAAAAA", elinewidth=0.8, capsize=2, zorder=1)
                colour: dict[str, Any] = {"color": "white"}
                known = isinstance(one.accuracy, tuple)
                if known:
                    colour = {"c": [100 * one.accuracy.value], "cmap": "cividis", "norm": scale}
                axes.scatter(*_at(one), s=60, edgecolors="black", zorder=3, **colour)
            best = map(_at, front(own))
            axes.plot(*zip(*best, strict=True), "k--", linewidth=1, drawstyle="steps-post", zorder=2)
            axes.grid(alpha=0.25)
            _labels(axes, {one.method: _at(one) for one in own.itertuples()})
        for axes in panels[len(backbones) :]:
            axes.set_axis_off()
        drawn.supxlabel(f"over-refusal ↓, %, {_sets(found.over_refusal_rate.iloc[0])}", fontsize=8)
        drawn.supylabel(f"harmful ↓, %, {_sets(found.harmful_rate.iloc[0])}", fontsize=8)
        if levels:
            bar = drawn.colorbar(
                ScalarMappable(scale, "cividis"), ax=list(panels), location="right", shrink=0.7, aspect=30
            )
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


Box = tuple[float, float, float, float]  # centre and size of a box, in percent of the axes


def _labels(axes: Any, at: Mapping[str, tuple[float, float]]) -> None:
    """Label the points, each name at the nearest place where it covers no point and no other name."""
    inverse = axes.transAxes.inverted()
    places = {name: 100 * inverse.transform(axes.transData.transform(point)) for name, point in at.items()}
    taken: list[Box] = [(x, y, 5.0, 6.0) for x, y in places.values()]
    look = {"arrowprops": {"arrowstyle": "-", "linewidth": 0.5, "color": "#777777", "shrinkA": 0, "shrinkB": 4}}
    look |= {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}}
    for name in sorted(at, key=lambda name: (at[name][1], -at[name][0])):
        (x, y), width = places[name], LETTER * len(name)
        boxes: list[Box] = [
            (x + side * (away + width / 2), y + up * away, width, LINE)
            for away in range(4, 80, 2)
            for up in (0.0, 0.8, -0.8, 1.6, -1.6)
            for side in (1, -1)
        ]
        inside = (box for box in boxes if 1 + width / 2 <= box[0] <= 99 - width / 2 and 3 <= box[1] <= 97)
        free = (
            (x, y, wide, high)
            for x, y, wide, high in inside
            if not any(abs(x - a) < (wide + w) / 2 and abs(y - b) < (high + h) / 2 for a, b, w, h in taken)
        )
        box = next(free, boxes[0])
        taken.append(box)
        where = {"xytext": (box[0] / 100, box[1] / 100), "textcoords": "axes fraction", "ha": "center", "va": "center"}
        axes.annotate(name, at[name], **where, fontsize=7, zorder=4, **look)
