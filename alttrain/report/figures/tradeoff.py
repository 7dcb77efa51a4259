"""Safety against over-refusal against capability: harmful rate over over-refusal, accuracy as brightness.

Lower left and brighter is better. The line is the Pareto front: no method is better in both rates than one on it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alttrain.report.entries import Entry
from alttrain.report.figures.drawing import SCALE, arms, figure

LETTER, LINE = 1.7, 6.0
"""What a letter and a line of a label take, in percent of the axes."""
SPAN = 20
"""Points of accuracy the colours span at least: small differences are not to look like large ones."""


NARROWEST = 20
"""Percent that an axis shows at least."""


class Point(NamedTuple):
    """A row's three numbers; capability is None where it was not measured."""

    backbone: str
    method: str
    harmful: Entry
    refused: Entry
    capable: Entry | None


def points(entries: Sequence[Entry]) -> list[Point]:
    """A point for each row that has both rates, on the columns that most rows share; a mean before a single set."""
    rows: dict[tuple[str, str], dict[tuple[str, ...], Entry]] = {}
    for one in entries:
        if one.known and one.kind in ("rate", "mean"):
            key = (one.measure, one.kind, one.benchmark, one.protocol_hash)
            rows.setdefault((one.backbone, one.method), {})[key] = one
    chosen = {measure: _most_shared(rows, measure) for measure in ("harmful_rate", "over_refusal_rate", "accuracy")}
    harmful, refused, capable = chosen.values()
    return [
        Point(*named, own[harmful], own[refused], own.get(capable) if capable else None)
        for named, own in rows.items()
        if harmful in own and refused in own
    ]


Key = tuple[str, ...]


def _most_shared(rows: dict[tuple[str, str], dict[Key, Entry]], measure: str) -> Key | None:
    counts: dict[Key, int] = {}
    for own in rows.values():
        for key in own:
            if key[0] == measure:
                counts[key] = counts.get(key, 0) + 1
    return min(counts, key=lambda key: (-counts[key], key[1] != "mean", key), default=None)


def front(found: Sequence[Point]) -> list[Point]:
    """The points that no other is as good as in both rates and better in one, by over-refusal."""
    best: list[Point] = []
    for one in sorted(found, key=lambda point: (point.refused.value, point.harmful.value)):
        if not best or one.harmful.value < best[-1].harmful.value:
            best.append(one)
    return best


def draw(entries: Sequence[Entry], path: Path) -> bool:
    """Draw the rows of one protocol, a panel a backbone; False where no row has both rates."""
    found = points(entries)
    if not found:
        return False
    from matplotlib.colors import Normalize

    backbones = list(dict.fromkeys(one.backbone for one in found))
    across = min(2, len(backbones))
    down = -(-len(backbones) // across)
    levels = [100 * one.capable.value for one in found if one.capable]
    scale = Normalize(min(levels), max(max(levels), min(levels) + SPAN)) if levels else Normalize()
    with figure(6.0 if across == 1 else 4.2 * across, 3.2 * down + (1.0 if levels else 0.4), path) as drawn:
        panels = drawn.subplots(down, across, squeeze=False, sharex=True, sharey=True).flatten()
        for axes, backbone in zip(panels, backbones, strict=False):
            axes.set(xlim=_reach([one.refused for one in found]), ylim=_reach([one.harmful for one in found]))
            dots = _panel(axes, [one for one in found if one.backbone == backbone], scale)
            axes.set_title(backbone, loc="left")
        for axes in panels[len(backbones) :]:
            axes.set_axis_off()
        drawn.supxlabel(f"over-refusal ↓, %, {_sets(found[0].refused)}", fontsize=8)
        drawn.supylabel(f"harmful ↓, %, {_sets(found[0].harmful)}", fontsize=8)
        drawn.suptitle(
            "Safety against over-refusal, 95 % intervals; dashed: Pareto front", x=0.01, ha="left", fontsize=9
        )
        if levels:
            capable = next(one.capable for one in found if one.capable)
            bar = drawn.colorbar(dots, ax=list(panels), location="right", shrink=0.7, aspect=30)
            bar.solids.set(rasterized=False, edgecolor="face")  # no bitmap in the SVG, and no seams
            bar.set_label(f"accuracy ↑, %, {_sets(capable)}")
    return True


def _reach(rates: Sequence[Entry]) -> tuple[float, float]:
    """The axis from 0 to the highest interval, with room for names; small rates are not drawn as large ones."""
    highest = max(NARROWEST, *(100 * (one.value if math.isnan(one.high) else one.high) for one in rates))
    top = min(100.0, 1.1 * highest)
    return -0.04 * top, 1.04 * top


def _panel(axes: Any, found: Sequence[Point], scale: Any) -> Any:
    """One backbone's points; what was drawn last, for the colour bar."""
    dots = None
    for one in found:
        x, y = 100 * one.refused.value, 100 * one.harmful.value
        for entry, side in ((one.refused, "xerr"), (one.harmful, "yerr")):
            reach = arms(entry.value, entry.low, entry.high)
            axes.errorbar(x, y, **{side: reach}, fmt="none", ecolor="#AAAAAA", elinewidth=0.8, capsize=2, zorder=1)
        level = {"c": [100 * one.capable.value], "cmap": SCALE, "norm": scale} if one.capable else {"color": "white"}
        dots = axes.scatter(x, y, s=60, edgecolors="black", zorder=3, **level)
    best = front(found)
    axes.plot(
        [100 * one.refused.value for one in best],
        [100 * one.harmful.value for one in best],
        color="black",
        linewidth=1,
        linestyle="--",
        drawstyle="steps-post",
        zorder=2,
    )
    axes.grid(alpha=0.25)
    _labels(axes, found)
    return dots


def _labels(axes: Any, found: Sequence[Point]) -> None:
    """Names beside their points, each at the nearest place where it covers neither a point nor another name."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()

    def place(one: Point) -> tuple[float, float]:
        """Where a point stands, in percent of the axes."""
        across, up = 100 * one.refused.value - left, 100 * one.harmful.value - bottom
        return 100 * across / (right - left), 100 * up / (top - bottom)

    taken = [_Box(*place(one), 5.0, 6.0) for one in found]
    for one in sorted(found, key=lambda one: (one.harmful.value, -one.refused.value)):
        (x, y), width = place(one), LETTER * len(one.method)
        places = [
            _Box(x + side * (away + width / 2), y + up * away, width, LINE)
            for away in range(4, 80, 2)
            for up in (0.0, 0.8, -0.8, 1.6, -1.6)
            for side in (1, -1)
        ]
        free = (box for box in places if box.inside() and not any(box.meets(other) for other in taken))
        box = next(free, places[0])
        taken.append(box)
        axes.annotate(
            one.method,
            (100 * one.refused.value, 100 * one.harmful.value),
            (box.x / 100, box.y / 100),
            textcoords="axes fraction",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#777777", "shrinkA": 0, "shrinkB": 4},
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
            ha="center",
            va="center",
            fontsize=7,
            zorder=4,
        )


class _Box(NamedTuple):
    """A box by its middle and its sides, in percent of the axes."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: "_Box") -> bool:
        """Whether the two cover each other anywhere."""
        apart = abs(self.x - other.x) >= (self.width + other.width) / 2
        return not apart and abs(self.y - other.y) < (self.height + other.height) / 2

    def inside(self) -> bool:
        """Whether it lies within the axes."""
        return self.x - self.width / 2 >= 1 and self.x + self.width / 2 <= 100 and 3 <= self.y <= 97


def _sets(one: Entry) -> str:
    sets = one.benchmark.count(" + ") + 1
    return f"{one.benchmark if sets == 1 else f'mean over {sets} sets'} (n={one.n})"
