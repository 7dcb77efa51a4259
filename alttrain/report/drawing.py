"""The look of figures, and the files and parts that they share."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from alttrain.records.files import replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
BEFORE, RIGHT = "#8C8C8C", "#DDDDDD"
"""Colours of No-train and of right outcomes."""
MARKERS, STYLES = "osD^vPX", ("-", "--", "-.", ":")
LOOK = {
    "text.parse_math": False,  # names are free text, and may have a dollar sign
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titley": 1.0,  # nothing is above the axes; to look for it takes a tenth of a figure's time
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "alttrain",
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,  # TrueType: publishers reject Type 3
}
FORMS = ("png", "svg", "pdf")
DOTS = 200  # dots per inch
ROOM = 60  # maximum number of characters of a name
PLAIN, LETTER = 20, 0.06  # characters of a name for which a figure has room; width of each further one in inches


@contextmanager
def figure(
    width: float, height: float, path: Path, title: str = "", across: int = 1, down: int = 1, **shared: Any
) -> Iterator[tuple[Any, Any]]:
    """A figure of this size in inches and its panels, saved as `path`.png, .svg and .pdf when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every step of embedding a font
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(width, height), dpi=DOTS, layout="constrained")
        yield fig, fig.subplots(down, across, squeeze=False, **shared).flatten()
        if title:
            fig.suptitle(title, x=0.01, ha="left", fontsize=9)
        # print through the canvas: savefig would draw everything once more first
        with replacing(path.with_name(f"{path.name}.png")) as file:
            FigureCanvasAgg(fig).print_png(file, metadata={"Software": None})
        fig.set_layout_engine("none")  # the other formats reuse the layout of the PNG
        with replacing(path.with_name(f"{path.name}.svg")) as file:
            FigureCanvasSVG(fig).print_svg(file, metadata={"Date": None, "Creator": None})
        with replacing(path.with_name(f"{path.name}.pdf")) as file:
            FigureCanvasPdf(fig).print_pdf(file, metadata={"CreationDate": None, "Creator": None, "Producer": None})


def look(number: int) -> tuple[str, str]:
    """Colour and marker of the line of this number: of the first 49, no two have both alike."""
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def error_bars(cells: Sequence[Any]) -> list[list[float]]:
    """Lengths of error bars in percent: nan without an interval, 0 for an end that rounding put on the wrong side."""
    lengths = [(100 * (cell.value - cell.low), 100 * (cell.high - cell.value)) for cell in cells]
    return [[0.0 if length < 0 else length for length in side] for side in zip(*lengths, strict=True)]


def show_names(fig: Any, names: Sequence[str], ends: Sequence[str] = ()) -> list[str]:
    """Make a figure wider for long names beside its panels, and return them, each with its end if there are `ends`.

    Names that are too long are cut before the end, unless two would then be the same.
    """
    ends = ends or [""] * len(names)
    room = ROOM - max(map(len, ends))
    cut = [name if len(name) <= room else f"{name[: room - 1]}…" for name in names]
    whole = names if len({*cut}) < len({*names}) else cut
    shown = [f"{name}{end}" for name, end in zip(whole, ends, strict=True)]
    fig.set_figwidth(fig.get_figwidth() + LETTER * max(0, max(map(len, shown)) - PLAIN))
    return shown


def name_rows(panels: Any, names: Sequence[str], ends: Sequence[str] = ()) -> None:
    """Label the rows of bars, from top to bottom, with these names (`show_names`)."""
    for axes in panels:
        axes.yaxis.set_label_coords(0, 0)  # there is no label, and its place would be looked for among all names
    panels[0].set_yticks(range(len(names)), show_names(panels[0].figure, names, ends))
    panels[0].set_ylim(len(names) - 0.4, -0.6)


def stack(axes: Any, rows: Sequence[Sequence[float]], looks: Iterable[tuple[str, str, str | None]]) -> None:
    """Draw rows of bars beside each other. A row has the width of each part, `looks` its name, colour and hatch."""
    starts = [0.0] * len(rows)
    for widths, (name, colour, hatch) in zip(zip(*rows, strict=True), looks, strict=True):
        style = {"height": 0.7, "edgecolor": "white", "linewidth": 0.5, "hatch": hatch, "color": colour}
        axes.barh(range(len(rows)), widths, left=starts, label=name, **style)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]


def name_bars(fig: Any, panels: Any, across: int) -> None:
    """Add the legend of stacked bars."""
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=across)


def describe(axes: Any, title: str, across: str, grid: Literal["x", "both"] = "x", size: int = 9) -> None:
    axes.set_title(title, loc="left", fontsize=size)
    axes.set_xlabel(across)
    axes.grid(axis=grid, alpha=0.25)
