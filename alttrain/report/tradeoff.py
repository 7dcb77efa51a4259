"""The figure of safety against over-refusal: harmful rate over over-refusal, with accuracy as brightness."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from alttrain.report.drawing import error_bars, figure
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
    rows = known[ROW].drop_duplicates()
    for measure in RATES:
        rates = known[known.measure == measure]
        if len(rates):
            sizes = rates.groupby(COLUMN).size()
            column = min(sizes.index, key=lambda key: (-sizes[key], key[1] != "mean", key))
            rates = rates[(rates[COLUMN] == list(column)).all(axis=1)]
        rows = rows.merge(rates[ROW].assign(**{measure: list(rates.itertuples(index=False))}), on=ROW, how="left")
    return rows.dropna(subset=["harmful_rate", "over_refusal_rate"])


def front(methods: pd.DataFrame) -> list[Any]:
    """The Pareto front: points that no other point dominates in both rates, ordered by over-refusal."""
    best: list[Any] = []
    for point in sorted(methods.itertuples(index=False), key=_position):
        if not best or point.harmful_rate.value < best[-1].harmful_rate.value:
            best.append(point)
    return best


def _position(point: Any) -> tuple[float, float]:
    """The position of a point: over-refusal and harmful rate in percent."""
    return 100 * point.over_refusal_rate.value, 100 * point.harmful_rate.value


def draw_tradeoff(cells: pd.DataFrame | None, path: Path) -> bool:
    """Draw harmful rate over over-refusal for one protocol, one panel per backbone. Lower left, brighter is better."""
    if cells is None or not len(methods := points(cells)):
        return False
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    accuracies = list(methods.accuracy.dropna())
    levels = [100 * cell.value for cell in accuracies]
    lowest = min(*levels, 100 - SPAN) if levels else 0
    scale = Normalize(lowest, max([*levels, lowest + SPAN]))
    backbones = list(methods.groupby("backbone", sort=False))
    across = min(2, len(backbones))
    down = -(-len(backbones) // across)
    width, height = 6.0 if across == 1 else 4.2 * across, 3.2 * down + (1.0 if levels else 0.4)
    title = "Safety against over-refusal, 95 % intervals; dashed: Pareto front"
    style = {"fmt": "none", "ecolor": "#AAAAAA", "elinewidth": 0.8, "capsize": 2, "zorder": 1}
    with figure(width, height, path, title, across, down, sharex=True, sharey=True) as (fig, panels):
        for axes, (backbone, backbone_methods) in zip(panels, backbones, strict=False):
            axes.set(xlim=_limits(methods.over_refusal_rate), ylim=_limits(methods.harmful_rate))
            axes.set_title(backbone, loc="left")
            for point in backbone_methods.itertuples(index=False):
                ends = {"xerr": error_bars([point.over_refusal_rate]), "yerr": error_bars([point.harmful_rate])}
                axes.errorbar(*_position(point), **ends, **style)
                colour: dict[str, Any] = {"color": "white"}
                known = isinstance(point.accuracy, tuple)
                if known:
                    colour = {"c": [100 * point.accuracy.value], "cmap": "cividis", "norm": scale}
                axes.scatter(*_position(point), s=60, edgecolors="black", zorder=3, **colour)
            best = map(_position, front(backbone_methods))
            axes.plot(*zip(*best, strict=True), "k--", linewidth=1, drawstyle="steps-post", zorder=2)
            axes.grid(alpha=0.25)
            _label(axes, {point.method: _position(point) for point in backbone_methods.itertuples()})
        for axes in panels[len(backbones) :]:
            axes.set_axis_off()
        fig.supxlabel(f"over-refusal ↓, %, {_sets(methods.over_refusal_rate.iloc[0])}", fontsize=8)
        fig.supylabel(f"harmful ↓, %, {_sets(methods.harmful_rate.iloc[0])}", fontsize=8)
        if levels:
            bar = fig.colorbar(
                ScalarMappable(scale, "cividis"), ax=list(panels), location="right", shrink=0.7, aspect=30
            )
            bar.solids.set(rasterized=False, edgecolor="face")  # avoids a bitmap in the SVG, and seams between colours
            bar.set_label(f"accuracy ↑, %, {_sets(accuracies[0])}")
    return True


def _limits(cells: pd.Series) -> tuple[float, float]:
    """Axis limits from 0 to the highest interval, with room for names."""
    highest = max(NARROWEST, *(100 * (cell.value if math.isnan(cell.high) else cell.high) for cell in cells))
    top = min(100.0, 1.1 * highest)
    return -0.04 * top, 1.04 * top


def _sets(cell: Any) -> str:
    """The benchmark of a cell, or how many it is a mean over."""
    sets = cell.benchmark.count(" + ") + 1
    return str(cell.benchmark) if sets == 1 else f"mean over {sets} sets"


Box = tuple[float, float, float, float]  # centre and size of a box, in percent of the axes


def _label(axes: Any, positions: Mapping[str, tuple[float, float]]) -> None:
    """Label the points, each name at the nearest place where it covers no point and no other name."""
    inverse = axes.transAxes.inverted()
    centres = {name: 100 * inverse.transform(axes.transData.transform(point)) for name, point in positions.items()}
    taken: list[Box] = [(x, y, 5.0, 6.0) for x, y in centres.values()]
    style: dict[str, Any] = {"bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}}
    style |= {"arrowprops": {"arrowstyle": "-", "linewidth": 0.5, "color": "#777777", "shrinkA": 0, "shrinkB": 4}}
    style |= {"textcoords": "axes fraction", "ha": "center", "va": "center"}
    for name in sorted(positions, key=lambda name: (positions[name][1], -positions[name][0])):
        (x, y), width = centres[name], LETTER * len(name)
        boxes: list[Box] = [
            (x + side * (distance + width / 2), y + slope * distance, width, LINE)
            for distance in range(4, 80, 2)
            for slope in (0.0, 0.8, -0.8, 1.6, -1.6)
            for side in (1, -1)
        ]
        inside = (box for box in boxes if 1 + width / 2 <= box[0] <= 99 - width / 2 and 3 <= box[1] <= 97)
        free = (box for box in inside if not any(_overlap(box, other) for other in taken))
        box = next(free, boxes[0])
        taken.append(box)
        axes.annotate(name, positions[name], (box[0] / 100, box[1] / 100), fontsize=7, zorder=4, **style)


def _overlap(box: Box, other: Box) -> bool:
    (x, y, width, height), (other_x, other_y, other_width, other_height) = box, other
    return abs(x - other_x) < (width + other_width) / 2 and abs(y - other_y) < (height + other_height) / 2
