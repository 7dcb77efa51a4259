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

import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from alttrain.evaluation.adherence import CAUSES
from alttrain.records import Rewritten, read_if_there, read_losses
from alttrain.records.files import clear_unfinished
from alttrain.report.drawing import (
    BEFORE,
    COLOURS,
    FORMS,
    MARKERS,
    RIGHT,
    STYLES,
    arms,
    describe,
    figure,
    name_bars,
    name_rows,
    stack,
)
from alttrain.report.estimates import FLOWS
from alttrain.report.evaluation import Made
from alttrain.report.measures import MEASURES, OFFLINE, base
from alttrain.report.processes import second_process
from alttrain.report.tables import ROW, TABLES, listed, pivot
from alttrain.report.tradeoff import draw_tradeoff
from alttrain.report.variants import Variant, by_backbone, pool, protocols_of

MANY = 16  # number of figures from which a second process helps
LONGEST = 100  # maximum number of characters of a file name


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
