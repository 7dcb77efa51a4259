"""How every figure looks: its colours, and its files, whose bytes depend on the numbers alone.

Colours are Okabe and Ito's, which colour-blind readers can distinguish; hatches and markers distinguish them in grey
print. Matplotlib is imported when something is drawn.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from alttrain.records.files import replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
BEFORE, RIGHT = "#8C8C8C", "#DDDDDD"
"""Colours of No-train and of right outcomes."""
MARKERS, STYLES = "osD^vPX", ("-", "--", "-.", ":")
LOOK = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "alttrain",
    "svg.fonttype": "none",  # text stays text
}
DOTS = 200
"""Dots per inch."""


@contextmanager
def figure(width: float, height: float, path: Path, title: str = "") -> Iterator[Any]:
    """A figure of this size in inches, saved as `path`.png and .svg when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LOOK):
        drawn = Figure(figsize=(width, height), dpi=DOTS, layout="constrained")
        yield drawn
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=9)
        # print through the canvas: savefig would draw everything once more first
        with replacing(path.with_name(f"{path.name}.png")) as file:
            FigureCanvasAgg(drawn).print_png(file, metadata={"Software": None})
        drawn.set_layout_engine("none")  # the SVG reuses the layout of the PNG
        with replacing(path.with_name(f"{path.name}.svg")) as file:
            FigureCanvasSVG(drawn).print_svg(file, metadata={"Date": None, "Creator": None})


def arms(cells: Sequence[Any]) -> list[list[float]]:
    """Lengths of the error bars in percent; an end on the wrong side of the value, by rounding, has length 0."""
    below = [max(0.0, 100 * (cell.value - cell.low)) for cell in cells]
    return [below, [max(0.0, 100 * (cell.high - cell.value)) for cell in cells]]


def name_rows(panels: Any, names: Sequence[str]) -> None:
    """Label the rows of bars, from top to bottom."""
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)


def describe(axes: Any, title: str, across: str, grid: Literal["x", "both"] = "x", size: int = 9) -> None:
    """Set a panel's title, axis label and grid."""
    axes.set_title(title, loc="left", fontsize=size)
    axes.set_xlabel(across)
    axes.grid(axis=grid, alpha=0.25)
