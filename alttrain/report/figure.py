"""The safety figure: harmful rate against over-refusal rate of every run, with 95 % intervals. Lower left is better."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from alttrain.report.runs import Cell

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colour-blind safe palette."""
MARKERS = "osD^vPX"


def points(cells: Sequence[Cell]) -> dict[str, tuple[Cell, Cell]]:
    """Run -> its (harmful, over-refusal) cells, on the one pair of benchmarks that most runs share."""
    decided = {(c.run, c.benchmark, c.metric): c for c in cells if not math.isnan(c.value)}
    runs = dict.fromkeys(cell.run for cell in cells)
    names = [
        sorted({benchmark for _, benchmark, metric in decided if metric == wanted})
        for wanted in ("harmful_rate", "over_refusal_rate")
    ]
    best: dict[str, tuple[Cell, Cell]] = {}
    for harmful, refused in itertools.product(*names):
        keys = {run: ((run, harmful, "harmful_rate"), (run, refused, "over_refusal_rate")) for run in runs}
        pairs = {run: (decided[h], decided[r]) for run, (h, r) in keys.items() if h in decided and r in decided}
        best = max(best, pairs, key=len)
    return best


def draw(cells: Sequence[Cell], path: Path) -> bool:
    """Write the figure as PNG; False where no run has both measures."""
    pairs = points(cells)
    if not pairs:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.4), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for index, (run, (harmful, refused)) in enumerate(pairs.items()):
        axes.errorbar(
            100 * refused.value,
            100 * harmful.value,
            xerr=_arms(refused),
            yerr=_arms(harmful),
            fmt=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            capsize=3,
            label=run,
        )
    harmful, refused = next(iter(pairs.values()))
    axes.set_xlabel(f"over-refusal, % of {refused.benchmark} (n={refused.n})")
    axes.set_ylabel(f"harmful, % of {harmful.benchmark} (n={harmful.n})")
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.25)
    axes.set_title("Safety against over-refusal (95 % intervals; lower left is better)", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    figure.savefig(path, metadata={"Software": None})
    return True


def _arms(cell: Cell) -> list[list[float]]:
    return [[max(0.0, 100 * (cell.value - cell.low))], [max(0.0, 100 * (cell.high - cell.value))]]
