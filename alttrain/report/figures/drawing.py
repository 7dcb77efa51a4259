"""How all figures look, and how they are saved: PNG and SVG whose bytes depend on the numbers alone.

Colours are Okabe and Ito's, told apart by colour-blind readers and, with hatches and markers, in grey print.
Matplotlib is imported when something is drawn, and never before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alttrain.records import replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
BEFORE = "#8C8C8C"
"""The colour of No-train."""
MARKERS = "osD^vPX"
STYLES = ("-", "--", "-.", ":")
SCALE = "cividis"
"""A scale of brightness, the same to all eyes."""
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


@contextmanager
def figure(width: float, height: float, path: Path) -> Iterator[Any]:
    """A figure of this size in inches, saved as `path`.png and .svg when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LOOK):
        drawn = Figure(figsize=(width, height), dpi=DOTS, layout="constrained")
        yield drawn
        # by their canvases: savefig draws everything once more before it draws
        with replacing(path.with_name(f"{path.name}.png")) as file:
            FigureCanvasAgg(drawn).print_png(file, metadata={"Software": None})
        drawn.set_layout_engine("none")  # laid out once; the SVG takes it as it is
        with replacing(path.with_name(f"{path.name}.svg")) as file:
            FigureCanvasSVG(drawn).print_svg(file, metadata={"Date": None, "Creator": None})


def colour(index: int) -> str:
    """The colour of a series."""
    return COLOURS[index % len(COLOURS)]


def style(index: int) -> str:
    """The line of a series: another one when the colours begin anew."""
    return STYLES[index // len(COLOURS) % len(STYLES)]


def arms(value: float, low: float, high: float) -> list[list[float]]:
    """Error bars in percent; an end that rounding put inside the value is no negative arm."""
    return [[max(0.0, 100 * (value - low))], [max(0.0, 100 * (high - value))]]
