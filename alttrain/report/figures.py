"""All figures of a report, as PNG, SVG and PDF, whose bytes depend on the numbers alone.

- tradeoff                                main table: harmful rate over over-refusal, with accuracy as brightness
- main, ablation_structure, teacher_swap  these tables as bars, one panel per column
- data_size, benign_amount                these tables over the number of training examples, or of harmless ones
- adherence-BACKBONE                      outcomes, with the assessment's verdict for the wrong ones
- flow-BACKBONE                           from what the thought's assessment says to what becomes of the answer
- losses-BACKBONE, lengths-BACKBONE       training loss by step, and tokens of the thoughts

A protocol other than the default is added to the name after a dot. A figure without data is not drawn; `draw_...` then
returns False. Colours are Okabe and Ito's, which colour-blind readers can distinguish; hatches and markers distinguish
them in grey print. Matplotlib is imported when something is drawn.
"""

import logging
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from alttrain.evaluation.adherence import CAUSES
from alttrain.records import Rewritten, read_if_there, read_losses
from alttrain.records.files import clear_unfinished, replacing
from alttrain.report.estimates import FLOWS
from alttrain.report.measures import MEASURES, OFFLINE, RATES, base
from alttrain.report.processes import second_process
from alttrain.report.results import Made
from alttrain.report.tables import COLUMN, ROW, TABLES, listed, pivot
from alttrain.report.variants import Variant, by_backbone, pool, protocols_of

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
    "pdf.fonttype": 42,  # TrueType: publishers reject Type 3
}
FORMS = ("png", "svg", "pdf")
MANY = 16  # number of figures from which a second process helps
DOTS = 200  # dots per inch
LONGEST = 100  # maximum number of characters of a file name
ROOM = 60  # maximum number of characters of a row's name


@contextmanager
def draw_all(
    tables: Mapping[str, pd.DataFrame], variants: Sequence[Variant], frames: Mapping[str, pd.DataFrame], folder: Path
) -> Iterator[Callable[[], list[Path]]]:
    """Draw every figure that has data. `frames` are those of the CSV files.

    Yields a function that draws them and returns the files. If they are many, a second process draws two thirds of them
    from the beginning of the block on.
    """
    drawings: dict[Path, Callable[[], bool]] = {}

    def draw(name: str, drawing: Callable[..., bool], *given: Any) -> None:
        path = folder / _file_name(name)
        drawings[path] = partial(drawing, *given, path)

    draw("cuts", draw_cuts, frames["interventions"])
    for backbone, own in by_backbone(variants):
        draw(f"losses-{backbone}", draw_losses, own)
    for protocol, found in protocols_of(variants).items():
        suffix = "" if protocol == OFFLINE else f".{protocol}"
        parts = {name: cells[cells.protocol == protocol] for name, cells in tables.items()}
        parts = {name: cells for name, cells in parts.items() if len(cells)}
        draw(f"tradeoff{suffix}", draw_tradeoff, parts.get("main", parts.get("overview")))
        for name in ("main", "ablation_structure", "teacher_swap"):
            draw(f"{name}{suffix}", draw_bars, TABLES[name], parts.get(name))
        for name in ("data_size", "benign_amount"):
            draw(f"{name}{suffix}", draw_doses, TABLES[name], parts.get(name), _amounts(found, name))
        for backbone, alike in by_backbone(found):
            assessed = parts["adherence"].query("backbone == @backbone") if "adherence" in parts else None
            draw(f"adherence-{backbone}{suffix}", draw_adherence, assessed)
            draw(f"flow-{backbone}{suffix}", draw_flow, alike, pool(found, protocol), frames["thoughts"])
            draw(f"lengths-{backbone}{suffix}", draw_lengths, alike, pool(found, protocol))
    every = [*drawings.values()]
    ours = every[1::3]
    theirs = [one for one in every if one not in ours]

    def rest() -> list[Path]:
        drawn = {one: one() for one in ours} | dict(zip(theirs, results(), strict=True))
        clear_unfinished(folder)  # of a second process that locked up
        there = (path for path, one in drawings.items() if drawn[one])
        return [path.with_name(f"{path.name}.{form}") for path in there for form in FORMS]

    with second_process(theirs, len(every) >= MANY) as results:
        yield rest


def _file_name(name: str) -> str:
    """A figure's name as a valid file name, since names of backbones and protocols are free text."""
    plain = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:LONGEST]
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode('utf-8', 'replace')):08x}"


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

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every step of embedding a font
    with matplotlib.rc_context(LOOK):
        drawn = Figure(figsize=(width, height), dpi=DOTS, layout="constrained")
        yield drawn, drawn.subplots(down, across, squeeze=False, **shared).flatten()
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=9)
        # print through the canvas: savefig would draw everything once more first
        with replacing(path.with_name(f"{path.name}.png")) as file:
            FigureCanvasAgg(drawn).print_png(file, metadata={"Software": None})
        drawn.set_layout_engine("none")  # the others reuse the layout of the PNG
        with replacing(path.with_name(f"{path.name}.svg")) as file:
            FigureCanvasSVG(drawn).print_svg(file, metadata={"Date": None, "Creator": None})
        with replacing(path.with_name(f"{path.name}.pdf")) as file:
            FigureCanvasPdf(drawn).print_pdf(file, metadata={"CreationDate": None, "Creator": None, "Producer": None})


def arms(cells: Sequence[Any]) -> list[list[float]]:
    """Lengths of error bars in percent: nan without an interval, 0 for an end that rounding put on the wrong side."""
    lengths = [(100 * (cell.value - cell.low), 100 * (cell.high - cell.value)) for cell in cells]
    return [[0.0 if one < 0 else one for one in side] for side in zip(*lengths, strict=True)]


def name_rows(panels: Any, names: Sequence[str]) -> None:
    """Label the rows of bars, from top to bottom. Longer names would leave no room for the bars."""
    panels[0].set_yticks(range(len(names)), [n if len(n) <= ROOM else f"{n[: ROOM - 1]}…" for n in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)


def stack(axes: Any, rows: Sequence[Sequence[float]], looks: Iterable[tuple[str, str, str | None]]) -> None:
    """Draw rows of bars beside each other. A row has the width of each part, `looks` its name, colour and hatch."""
    left = [0.0] * len(rows)
    for widths, (name, colour, hatch) in zip(zip(*rows, strict=True), looks, strict=True):
        look = {"height": 0.7, "edgecolor": "white", "linewidth": 0.5, "hatch": hatch, "color": colour}
        axes.barh(range(len(rows)), widths, left=left, label=name, **look)
        left = [start + width for start, width in zip(left, widths, strict=True)]


def name_bars(drawn: Any, panels: Any, across: int) -> None:
    """Add the legend of stacked bars."""
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=across)


def describe(axes: Any, title: str, across: str, grid: Literal["x", "both"] = "x", size: int = 9) -> None:
    """Set a panel's title, axis label and grid."""
    axes.set_title(title, loc="left", fontsize=size)
    axes.set_xlabel(across)
    axes.grid(axis=grid, alpha=0.25)


def draw_cuts(interventions: pd.DataFrame, path: Path) -> bool:
    """Outcomes by the share of the thought that a cut keeps: a panel for each benchmark, a line for each run."""
    cuts = interventions[interventions.share.notna() & interventions.value.notna()]
    if cuts.empty:
        return False
    benchmarks = cuts.groupby(["benchmark", "protocol", "of_hash"], sort=False)
    runs, drawn_as = list(cuts.run.unique()), {}
    with figure(1 + 2.6 * len(benchmarks), 2.8, path, across=len(benchmarks)) as (drawn, panels):
        for panel, ((benchmark, protocol, _), of) in zip(panels, benchmarks, strict=True):
            for run, own in of.sort_values("share").groupby("run", sort=False):
                number = runs.index(run)
                colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
                across, low, high = 100 * own.share, 100 * own.rate_low, 100 * own.rate_high
                (drawn_as[run],) = panel.plot(across, 100 * own.value, color=colour, marker=marker, markersize=3)
                panel.fill_between(across, low, high, color=colour, alpha=0.15)
            named = benchmark if protocol == OFFLINE else f"{benchmark}, {protocol}"
            heading = f"{named}: {MEASURES[base(of.metric.iloc[0])].heading()} by {of.judge.iloc[0]}"
            describe(panel, heading, "share of the thought kept (%)", "both")
            panel.set_ylim(-3, 103)
        panels[0].set_ylabel("%")
        drawn.legend([drawn_as[run] for run in runs], runs, loc="outside lower left")
    return True


def draw_bars(title: str, cells: pd.DataFrame | None, path: Path) -> bool:
    """Draw a table's rates as bars with intervals, one panel per column. Published figures are diamonds."""
    if cells is None or not cells.known.any():
        return False
    grid, several = pivot(cells), cells.backbone.nunique() > 1
    rows: list[tuple[str, list[Any]]] = []
    for backbone, own in grid.groupby(level="backbone", sort=False):
        rows += [(str(backbone), [])] if several else []
        rows += [(row[0][1], list(row[1:])) for row in own.itertuples() if any(cell.known for cell in row[1:])]
    told = "; diamonds: published" if cells.published.notna().any() else ""
    count = len(grid.columns)
    size = 1.6 + 1.7 * count, 0.9 + 0.22 * len(rows)
    diamond = {"marker": "D", "markersize": 5, "markerfacecolor": COLOURS[1], "markeredgecolor": "white"}
    diamond |= {"markeredgewidth": 0.7, "linestyle": "none", "clip_on": False, "zorder": 5}
    with figure(*size, path, f"{title}, with 95 % intervals{told}", count, sharey=True) as (_, panels):
        for index, (axes, heading) in enumerate(zip(panels, grid.columns, strict=True)):
            column = [(place, method, own[index]) for place, (method, own) in enumerate(rows) if own]
            if known := [(place, method, cell) for place, method, cell in column if cell.known]:
                places, methods, found = zip(*known, strict=True)
                colours = [BEFORE if method.startswith("No-train") else COLOURS[4] for method in methods]
                look = {"color": colours, "height": 0.7, "error_kw": {"elinewidth": 0.9, "capsize": 2}}
                axes.barh(places, [100 * cell.value for cell in found], xerr=arms(found), **look)
            if reported := [(100 * cell.published, place) for place, _, cell in column if cell.published >= 0]:
                axes.plot(*zip(*reported, strict=True), **diamond)
            axes.set_xlim(0, 102)
            axes.tick_params(axis="y", length=0)
            describe(axes, "\n".join(heading), "%", size=8)
        name_rows(panels, [name for name, _ in rows])
        for text, (_, own) in zip(panels[0].get_yticklabels(), rows, strict=True):
            text.set_fontweight("normal" if own else "bold")
    return True


LINEAR, DODGE = 50, 0.03
"""Number of examples up to which the axis is linear, so that it can show 0; distance between the lines' markers."""
Amounts = Mapping[tuple[str, str], tuple[str, int]]  # (backbone, method) of a row -> (its line, its number of examples)


def _amounts(found: Sequence[Variant], table: str) -> Amounts:
    """The number of training examples of each row, or of harmless ones, from its first seed's rewrite.json."""
    amounts = {}
    for one in listed(found, table):
        if one.training != "none":
            path = next(iter(one.folders.values())) / "rewrite.json"
            labels = read_if_there(path, Rewritten).get("labels", {})
            amount = sum(labels.values()) if table == "data_size" else labels.get("benign", 0)
            amounts[one.backbone, one.name] = one.rewrite, amount
    return amounts


def draw_doses(title: str, cells: pd.DataFrame | None, amounts: Amounts, path: Path) -> bool:
    """Draw rates over the number of training examples, with intervals. Published ones are hollow and dotted."""
    if cells is None or not any(tuple(row) in amounts for row in cells[cells.known][ROW].itertuples(index=False)):
        return False
    grid = pivot(cells)
    rows = [(row[0][0], *amounts[row[0]], row[1:]) for row in grid.itertuples() if row[0] in amounts]
    names = list(dict.fromkeys((backbone, line) for backbone, line, _, _ in rows))
    ticks = sorted({amount for _, _, amount, _ in rows})
    title += ", with 95 % intervals" + ("; hollow, dotted: published" if cells.published.notna().any() else "")
    with figure(1.2 + 2.3 * len(grid.columns), 3.2, path, title, len(grid.columns)) as (drawn, panels):
        for index, (axes, heading) in enumerate(zip(panels, grid.columns, strict=True)):
            for number, named in enumerate(names):
                aside = DODGE * (number - (len(names) - 1) / 2)
                own = sorted((amount, own[index]) for *line, amount, own in rows if tuple(line) == named)
                at = [(_place(amount) + aside, cell) for amount, cell in own]
                look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
                places, known = [x for x, cell in at if cell.known], [cell for _, cell in at if cell.known]
                error = {"yerr": arms(known), "capsize": 2, "elinewidth": 0.8, "linewidth": 1.2, "markersize": 4}
                axes.errorbar(places, [100 * cell.value for cell in known], **look, **error, label=", ".join(named))
                if told := [(x, 100 * cell.published) for x, cell in at if cell.published >= 0]:
                    hollow = {"markerfacecolor": "white", "ls": ":", "linewidth": 1, "markersize": 5}
                    axes.plot(*zip(*told, strict=True), **look, **hollow)
            axes.set_xticks([_place(tick) for tick in ticks], [f"{tick:,}" for tick in ticks], rotation=45)
            axes.margins(x=0.08, y=0.1)
            axes.set_ylim(bottom=0)
            describe(axes, "\n".join(heading), "training examples", grid="both")
        panels[0].set_ylabel("%")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=min(4, len(panels)))
    return True


def _place(amount: int) -> float:
    """The position of an amount on the axis: linear up to `LINEAR`, logarithmic above."""
    return amount / LINEAR if amount <= LINEAR else 1 + math.log10(amount / LINEAR)


PANELS = (("answered", "harmful prompts", "refused"), ("refused", "harmless prompts", "answered"))
STACK = {
    "": ("right", RIGHT, None),
    "misjudged": ("wrong: misjudged", COLOURS[1], "///"),
    "disobeyed": ("wrong: judged rightly, not acted on", COLOURS[2], "..."),
    "unassessed": ("wrong: without an assessment", COLOURS[3], "xx"),
}
"""Cause -> name, colour and hatch; "" is what is right."""


def draw_adherence(cells: pd.DataFrame | None, path: Path) -> bool:
    """Draw the outcomes of harmful and harmless prompts as stacked bars, wrong ones by the assessment's verdict."""
    if cells is None:
        return False
    parts = cells.measure.str.partition("_")
    known = cells.assign(outcome=parts[0], cause=parts[2])[cells.known & parts[2].isin(CAUSES)]
    if not len(known):
        return False
    shares = known.set_index(["method", "outcome", "cause"]).value
    rows = list(dict.fromkeys(known.method))
    title = f"{known.backbone.iloc[0]}: outcomes, and what the assessment had said where they were wrong"
    with figure(7.2, 1.7 + 0.3 * len(rows), path, title, 2, sharey=True) as (drawn, panels):
        for axes, (outcome, prompts, right) in zip(panels, PANELS, strict=True):
            there, widths = shares.index.droplevel("cause"), []
            for method in rows:
                wrong = [100 * float(shares.get((method, outcome, cause), 0.0)) for cause in CAUSES]
                widths.append([max(0.0, 100 - sum(wrong)) if (method, outcome) in there else 0.0, *wrong])
            stack(axes, widths, STACK.values())
            axes.set_xlim(0, 100)
            axes.set_xlabel(f"% of {prompts} with a verdict")
            axes.set_title(f"{prompts}: right is {right}", loc="left")
        name_rows(panels, rows)
        name_bars(drawn, panels, 4)
    return True


SAYS = {"harmful": "says harmful", "benign": "says harmless", "unassessed": "no assessment"}
FLOW = {
    "refused": ("refused", COLOURS[4], None),
    "answered": ("answered", COLOURS[5], "///"),
    "undecided": ("undecided", RIGHT, None),
}
"""What becomes of an answer -> name, colour and hatch."""
FLOWN = {"harmful_rate": "benchmarks of harm", "over_refusal_rate": "benchmarks of over-refusal"}


def draw_flow(variants: Sequence[Variant], made: Sequence[Made], thoughts: pd.DataFrame, path: Path) -> bool:
    """Draw how many texts of one backbone's methods go from each assessment to each outcome, over all seeds.

    A row is what the assessments say, and its parts are what became of the answers. `thoughts` is the frame of
    thoughts.csv, of which only the benchmarks as they were `made` are drawn.
    """
    methods = {folder.name: one.name for one in variants for folder in one.folders.values()}
    if thoughts.empty:
        return False
    own = thoughts.assign(method=thoughts.run.map(methods)).dropna(subset="method")
    own = own[[key in made for key in zip(own.protocol, own.benchmark, own.protocol_hash, strict=True)]]
    counts = own.groupby(["metric", "method"])[FLOWS].sum()
    counts.columns = pd.MultiIndex.from_product([SAYS, FLOW])
    texts = counts.T.groupby(level=0).sum().T  # by assessment
    known = texts.groupby(level="method").sum()
    shown = [metric for metric in FLOWN if metric in texts.index]
    rows = [(method, said) for method in dict.fromkeys(methods.values()) if method in known.index for said in SAYS]
    rows = [(method, said) for method, said in rows if known.loc[method, said]]
    if not rows:
        return False
    seeds = {len(one.folders) for one in variants}
    title = f"{variants[0].backbone}: from what the thought's assessment says to what becomes of the answer"
    title += f", of {min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else ""
    beside = {"textcoords": "offset points", "verticalalignment": "center", "fontsize": 7}
    with figure(7.2, 1.5 + 0.24 * len(rows), path, title, len(shown), sharey=True) as (drawn, panels):
        for axes, metric in zip(panels, shown, strict=True):
            most = int(texts.loc[metric].max(axis=None))
            parts = counts.loc[metric].to_dict("index")
            widths = [[parts.get(method, {}).get((said, end), 0) for end in FLOW] for method, said in rows]
            stack(axes, widths, FLOW.values())
            for place, (own, (method, _)) in enumerate(zip(widths, rows, strict=True)):
                if method in parts:
                    axes.annotate(" / ".join(map(str, own)), (sum(own), place), (3, 0), **beside)
            axes.set_xlim(0, 1.35 * most)
            describe(axes, FLOWN[metric], f"texts: {' / '.join(FLOW)}")
        name_rows(panels, [f"{method}: {SAYS[said]}" for method, said in rows])
        name_bars(drawn, panels, 3)
    return True


def draw_losses(variants: Sequence[Variant], path: Path) -> bool:
    """Draw the training loss by step of one backbone's variants, one line per seed, from logs/metrics.csv."""
    curves: list[tuple[Variant, list[list[tuple[int, float]]]]] = []
    for one in variants:
        logs = (folder / "logs" / "metrics.csv" for folder in one.folders.values())
        read = (read_losses(log) for log in logs if log.exists())
        found = [[(step + 1, float(row["loss"])) for step, row in rows if row.get("loss")] for rows in read]
        if own := list(filter(None, found)):
            curves.append((one, own))
    if not curves:
        return False
    from matplotlib.ticker import LogLocator, NullFormatter

    with figure(6.6, max(3.2, 0.8 + 0.19 * len(curves)), path) as (drawn, (axes,)):
        for index, (one, own) in enumerate(curves):
            name = one.name + (f", {len(one.folders)} seeds" if len(one.folders) > 1 else "")
            colour, line = COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]
            look = {"color": colour, "linestyle": line, "linewidth": 1.2, "alpha": 1.0 if len(own) == 1 else 0.75}
            for seed, points in enumerate(own):
                axes.plot(*zip(*points, strict=True), **look, label=None if seed else name)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("loss on thought and answer")
        describe(axes, f"Training loss of {curves[0][0].backbone}, a line a seed", "step", grid="both")
        drawn.legend(loc="outside right upper")
    return True


TICKS = (0, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)


def lengths(variant: Variant, made: Sequence[Made]) -> dict[str, list[int]]:
    """Token counts of the thoughts on these benchmarks, by label of the prompt, over all seeds."""
    found: dict[str, list[int]] = {"harmful": [], "benign": []}
    for evaluation in (evaluation for one in made for evaluation in variant.judged.get(one, {}).values()):
        for text in evaluation.texts().values():
            found[text.label].append(text.thought_tokens)
    return found


def draw_lengths(variants: Sequence[Variant], made: Sequence[Made], path: Path) -> bool:
    """Draw the lengths of one backbone's thoughts by label of the prompt. The axis is linear up to 10 tokens."""
    rows = [(one, lengths(one, made)) for one in variants]
    rows = [(one, own) for one, own in rows if any(own.values())]
    if not rows:
        return False
    longest = max(value for _, own in rows for found in own.values() for value in found)
    ticks = [tick for tick in TICKS if tick <= max(longest, 10)]
    title = f"Thoughts of {variants[0].backbone}: median, mean (diamond), quartiles, 5th to 95th percentile"
    look = {"orientation": "horizontal", "whis": (5, 95), "showfliers": False, "showmeans": True, "widths": 0.6}
    look |= {"patch_artist": True, "medianprops": {"color": "black", "linewidth": 1.4}}
    look |= {"meanprops": {"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 4}}
    with figure(7.2, 1.3 + 0.3 * len(rows), path, title, 2, sharey=True, sharex=True) as (_, panels):
        for axes, name in zip(panels, ("harmful", "benign"), strict=True):
            boxes = axes.boxplot([own[name] for _, own in rows], positions=range(len(rows)), **look)
            for shape, (one, _) in zip(boxes["boxes"], rows, strict=True):
                shape.set_facecolor(BEFORE if one.untrained else COLOURS[4])
            axes.set_xscale("symlog", linthresh=10, linscale=0.4)
            axes.set_xlim(left=-0.5)
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45 if longest > 500 else 0)
            axes.minorticks_off()
            describe(axes, f"{'harmful' if name == 'harmful' else 'harmless'} prompts", "tokens of the thought")
        name_rows(panels, [one.name for one, _ in rows])
    return True


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
