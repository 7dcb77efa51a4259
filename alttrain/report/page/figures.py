"""The page's figures: those of report/figures/*.svg, or the safety figure, drawn here, where there are none.

What is drawn here takes its colours from page.css and so follows the reader's light or dark scheme.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from alttrain.report.page.markup import Names, section, text
from alttrain.report.page.svg import inline
from alttrain.report.runs import Cell

LARGEST = 2_000_000
"""Bytes of a figure that is taken into the page."""
FIRST = ("tradeoff", "safety", "main")
"""How the names of the figures begin that come before the others."""
LEFT, TOP, SIDE, WIDTH, HEIGHT, INSIDE = 56, 12, 368, 440, 428, 9
"""The plotted square in the drawing, in its units; 0 and 100 lie a little inside it."""
MARKS = (
    "M-5,-5H5V5H-5Z",
    "M0,-6L6,5H-6Z",
    "M0,-6.5L6.5,0L0,6.5L-6.5,0Z",
    "M0,6L6,-5H-6Z",
    "M-6,-2H-2V-6H2V-2H6V2H2V6H-2V2H-6Z",
)
COLOURS = 6
"""Classes c0, c1 .. of page.css."""


def figures(folder: Path, cells: Sequence[Cell], names: Names) -> str:
    """The section of figures; empty where there is nothing to draw."""
    paths = sorted(folder.glob("*.svg"), key=lambda path: (not path.name.startswith(FIRST), path.name))
    made = [_figure(path) for path in paths] if paths else [drawn] if (drawn := _safety(_pairs(cells), names)) else []
    return section("figures", "Figures", f'<div class="figures">\n{"".join(made)}</div>') if made else ""


def _figure(path: Path) -> str:
    name = path.stem
    if path.stat().st_size > LARGEST:
        return f"<p>{text(path.name)} is too large for this page; it is in the folder of figures beside it.</p>"
    source = path.read_text(encoding="utf-8")
    drawing = inline(source, name)
    note = "; a bitmap in it is left out here" if "<image" in source else ""
    return f'<figure class="paper">{drawing}<figcaption>{text(name)}{note}</figcaption></figure>\n'


def _pairs(cells: Sequence[Cell]) -> dict[str, tuple[Cell, Cell]]:
    """Run -> its harmful and over-refusal rates, on the one pair of benchmarks that most runs share."""
    known = [cell for cell in cells if not math.isnan(cell.value)]
    harmful, refused = (
        {name: {c.run: c for c in known if (c.metric, c.benchmark) == (metric, name)} for name in names}
        for metric in ("harmful_rate", "over_refusal_rate")
        for names in [sorted({cell.benchmark for cell in known if cell.metric == metric})]
    )
    pairs = [
        {run: (cell, other[run]) for run, cell in one.items() if run in other}
        for one, other in itertools.product(harmful.values(), refused.values())
    ]
    return max(pairs, key=len, default={})


def _safety(pairs: Mapping[str, tuple[Cell, Cell]], names: Names) -> str:
    """Harmful rate against over-refusal of every run, with its intervals."""
    if not pairs:
        return ""
    harmful, refused = next(iter(pairs.values()))
    shown = [_point(number, run, *pair) for number, (run, pair) in enumerate(pairs.items())]
    title = f"Harmful rate on {harmful.benchmark} against over-refusal on {refused.benchmark}"
    legend = "".join(
        f'<li><svg viewBox="-8 -8 16 16" aria-hidden="true">{_mark(number)}</svg>{names.html(run)}</li>'
        for number, run in enumerate(pairs)
    )
    return (
        f'<figure><svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">'
        f"{_axes(harmful, refused)}{''.join(shown)}</svg>"
        f'<figcaption>{text(title)}, percent with 95 % intervals; lower left is better.<ul class="legend">{legend}</ul>'
        "</figcaption></figure>"
    )


def _axes(harmful: Cell, refused: Cell) -> str:
    lines = []
    for value in range(0, 101, 20):
        x, y = _x(value / 100), _y(value / 100)
        lines.append(f'<path class="grid" d="M{x:.1f},{TOP}V{TOP + SIDE}M{LEFT},{y:.1f}H{LEFT + SIDE}"/>')
        lines.append(f'<text x="{x:.1f}" y="{TOP + SIDE + 18}" text-anchor="middle">{value}</text>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>')
    across = f"over-refusal ↓, {refused.benchmark} (n={refused.n})"
    up = f"harmful ↓, {harmful.benchmark} (n={harmful.n})"
    middle = LEFT + SIDE / 2
    lines.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{text(across)}</text>')
    turned = f"translate(14 {TOP + SIDE / 2}) rotate(-90)"
    lines.append(f'<text class="axis" transform="{turned}" text-anchor="middle">{text(up)}</text>')
    return "".join(lines)


def _point(number: int, run: str, harmful: Cell, refused: Cell) -> str:
    x, y = _x(refused.value), _y(harmful.value)
    arms = f"M{_x(refused.low):.1f},{y:.1f}H{_x(refused.high):.1f}M{x:.1f},{_y(harmful.low):.1f}V{_y(harmful.high):.1f}"
    told = f"{run}: harmful {100 * harmful.value:.1f}, over-refusal {100 * refused.value:.1f}"
    return (
        f'<g><title>{text(told)}</title><path class="arm c{number % COLOURS}" d="{arms}"/>'
        f'<g transform="translate({x:.1f} {y:.1f})">{_mark(number)}</g></g>'
    )


def _mark(number: int) -> str:
    """Runs differ by form, then by colour; every other round of forms is hollow."""
    hollow = " hollow" if number // (len(MARKS) * COLOURS) % 2 else ""
    return f'<path class="point c{number % COLOURS}{hollow}" d="{MARKS[number % len(MARKS)]}"/>'


def _x(share: float) -> float:
    return LEFT + INSIDE + (SIDE - 2 * INSIDE) * _within(share)


def _y(share: float) -> float:
    return TOP + INSIDE + (SIDE - 2 * INSIDE) * (1 - _within(share))


def _within(share: float) -> float:
    return 0.0 if math.isnan(share) else min(max(share, 0.0), 1.0)
