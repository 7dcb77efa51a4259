"""All figures of a report, as PNG, SVG and PDF, whose bytes depend on the numbers alone.

- tradeoff                                main table: harmful rate over over-refusal, with accuracy as brightness
- main, ablation_structure, teacher_swap  these tables as bars, one panel per column
- data_size, benign_amount                these tables over the number of training examples, or of harmless ones
- adherence-BACKBONE                      outcomes, with the assessment's verdict for the wrong ones
- flow-BACKBONE                           from what the thought's assessment says to what becomes of the answer
- probes-BACKBONE-NUMBER                  AUROC of probes by position, of runs probed on the same benchmarks
- losses-BACKBONE, lengths-BACKBONE       training loss by step, and tokens of the thoughts

A protocol other than the default is added to the name after a dot. A figure without data is not drawn; `draw_...` then
returns False. Colours are Okabe and Ito's, which colour-blind readers can distinguish; hatches and markers distinguish
them in grey print. Matplotlib is imported when something is drawn.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from alttrain.evaluation.adherence import CAUSES
from alttrain.records import LOSS, RewriteDocument, read_if_there, read_losses
from alttrain.records.files import clear_unfinished
from alttrain.report.drawing import (
    BEFORE,
    COLOURS,
    FORMS,
    RIGHT,
    STYLES,
    describe,
    error_bars,
    figure,
    look,
    name_bars,
    name_rows,
    show_names,
    stack,
)
from alttrain.report.estimates import ENDS
from alttrain.report.evaluation import BenchmarkKey
from alttrain.report.measures import MEASURES, OFFLINE, base_measure
from alttrain.report.probes import draw_probes
from alttrain.report.processes import second_process
from alttrain.report.tables import DIGITS, ROW, TABLES, pivot, rows_of_table
from alttrain.report.tradeoff import draw_tradeoff
from alttrain.report.variants import Variant, by_backbone, pool, protocols_of

MANY = 16  # number of figures from which a second process helps
LONGEST = 100  # maximum number of characters of a file name


@contextmanager
def draw_all(
    tables: Mapping[str, pd.DataFrame], variants: Sequence[Variant], frames: Mapping[str, pd.DataFrame], folder: Path
) -> Iterator[Callable[[], list[Path]]]:
    """Draw every figure that has data. `frames` are those of the CSV files.

    Yields a function that draws them and returns the files. If they are many, a second process begins with the block.
    """
    drawings: dict[Path, Callable[[], bool]] = {}

    def add(name: str, draw_figure: Callable[..., bool], *data: Any) -> None:
        path = folder / _file_name(name)
        drawings[path] = partial(draw_figure, *data, path)

    add("cuts", draw_cuts, frames["interventions"])
    alike = frames["probes"].groupby(["backbone", "benchmarks", "protocol_hash"], sort=False)
    for number, ((backbone, *_), probed) in enumerate(alike):
        add(f"probes-{backbone}-{number}", draw_probes, probed)
    for backbone, backbone_variants in by_backbone(variants):
        add(f"losses-{backbone}", draw_losses, backbone_variants)
    for protocol, protocol_variants in protocols_of(variants).items():
        suffix = "" if protocol == OFFLINE else f".{protocol}"
        benchmarks = pool(protocol_variants, protocol)
        parts = {name: cells[cells.protocol == protocol] for name, cells in tables.items()}
        parts = {name: cells for name, cells in parts.items() if len(cells)}
        add(f"tradeoff{suffix}", draw_tradeoff, parts.get("main", parts.get("overview")))
        for name in ("main", "ablation_structure", "teacher_swap"):
            add(f"{name}{suffix}", draw_bars, TABLES[name], parts.get(name))
        for name, across in (("data_size", "training examples"), ("benign_amount", "harmless training examples")):
            add(f"{name}{suffix}", draw_doses, TABLES[name], parts.get(name), _amounts(protocol_variants, name), across)
        for backbone, backbone_variants in by_backbone(protocol_variants):
            assessed = parts["adherence"].query("backbone == @backbone") if "adherence" in parts else None
            add(f"adherence-{backbone}{suffix}", draw_adherence, assessed)
            add(f"flow-{backbone}{suffix}", draw_flow, backbone_variants, benchmarks)
            add(f"lengths-{backbone}{suffix}", draw_lengths, backbone_variants, benchmarks)

    def draw() -> list[Path]:
        drawn = dict(zip(drawings, results(), strict=True))
        clear_unfinished(folder)  # of a second process that locked up
        return [path.with_name(f"{path.name}.{form}") for path in drawings if drawn[path] for form in FORMS]

    with second_process([*drawings.values()], len(drawings) >= MANY) as results:
        yield draw


def _file_name(name: str) -> str:
    """A figure's name as a valid file name, since names of backbones and protocols are free text."""
    valid = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:LONGEST]
    return valid if valid == name else f"{valid}-{zlib.crc32(name.encode('utf-8', 'replace')):08x}"


def draw_cuts(interventions: pd.DataFrame, path: Path) -> bool:
    """Outcomes by the share of the thought that a cut keeps: a panel for each benchmark, a line for each run.

    Cuts of a run with other settings are a line of their own, named by the beginning of the settings' hash.
    """
    cuts = interventions[interventions.share.notna() & interventions.value.notna()]
    if cuts.empty:
        return False
    benchmarks = cuts.groupby(["benchmark", "protocol", "of_hash"], sort=False)
    kinds, lines = cuts[["run", "settings"]].drop_duplicates(), {}
    names = {kind: kind[0] for kind in kinds.itertuples(index=False, name=None)}
    names |= {kind: f"{kind[0]} {kind[1][:DIGITS]}" for kind in names if list(kinds.run).count(kind[0]) > 1}
    with figure(1 + 2.6 * len(benchmarks), 2.8, path, across=len(benchmarks)) as (fig, panels):
        for axes, ((benchmark, protocol, _), benchmark_cuts) in zip(panels, benchmarks, strict=True):
            for kind, run_cuts in benchmark_cuts.sort_values("share").groupby(["run", "settings"], sort=False):
                colour, marker = look(list(names).index(kind))
                shares, low, high = 100 * run_cuts.share, 100 * run_cuts.rate_low, 100 * run_cuts.rate_high
                (lines[kind],) = axes.plot(shares, 100 * run_cuts.value, color=colour, marker=marker, markersize=3)
                axes.fill_between(shares, low, high, color=colour, alpha=0.15)
            label = benchmark if protocol == OFFLINE else f"{benchmark}, {protocol}"
            measure, judge = MEASURES[base_measure(benchmark_cuts.metric.iloc[0])], benchmark_cuts.judge.iloc[0]
            describe(axes, f"{label}: {measure.heading()} by {judge}", "share of the thought kept (%)", "both")
            axes.set_ylim(-3, 103)
        panels[0].set_ylabel("%")
        fig.legend([lines[kind] for kind in names], [*names.values()], loc="outside lower left")
    return True


def draw_bars(title: str, cells: pd.DataFrame | None, path: Path) -> bool:
    """Draw a table's rates as bars with intervals, one panel per column. Published figures are diamonds."""
    if cells is None or not cells.known.any():
        return False
    grid, several_backbones = pivot(cells), cells.backbone.nunique() > 1
    rows: list[tuple[str, list[Any]]] = []  # a backbone without cells, or a method with its cells
    for backbone, backbone_grid in grid.groupby(level="backbone", sort=False):
        rows += [(str(backbone), [])] if several_backbones else []
        methods = [(method, row) for (_, method), *row in backbone_grid.itertuples()]
        rows += [(method, row) for method, row in methods if any(cell.known for cell in row)]
    note = "; diamonds: published" if cells.published.notna().any() else ""
    count = len(grid.columns)
    size = 1.6 + 1.7 * count, 0.9 + 0.22 * len(rows)
    diamond = {"marker": "D", "markersize": 5, "markerfacecolor": COLOURS[1], "markeredgecolor": "white"}
    diamond |= {"markeredgewidth": 0.7, "linestyle": "none", "clip_on": False, "zorder": 5}
    with figure(*size, path, f"{title}, with 95 % intervals{note}", count, sharey=True) as (_, panels):
        for index, (axes, heading) in enumerate(zip(panels, grid.columns, strict=True)):
            column = [(y, method_cells[index]) for y, (_, method_cells) in enumerate(rows) if method_cells]
            if known := [(y, cell) for y, cell in column if cell.known]:
                ys, known_cells = zip(*known, strict=True)
                colours = [BEFORE if cell.method.startswith("No-train") else COLOURS[4] for cell in known_cells]
                style = {"color": colours, "height": 0.7, "error_kw": {"elinewidth": 0.9, "capsize": 2}}
                axes.barh(ys, [100 * cell.value for cell in known_cells], xerr=error_bars(known_cells), **style)
            if published := [(100 * cell.published, y) for y, cell in column if cell.published >= 0]:
                axes.plot(*zip(*published, strict=True), **diamond)
            axes.set_xlim(0, 102)
            axes.tick_params(axis="y", length=0)
            describe(axes, "\n".join(heading), "%", size=8)
        name_rows(panels, [name for name, _ in rows])
        for text, (_, method_cells) in zip(panels[0].get_yticklabels(), rows, strict=True):
            text.set_fontweight("normal" if method_cells else "bold")
    return True


LINEAR, DODGE = 50, 0.03
"""Number of examples up to which the axis is linear, so that it can show 0; distance between the lines' markers."""
Amounts = Mapping[tuple[str, str], tuple[str, int]]  # (backbone, method) of a row -> (its rewrite, number of examples)


def _amounts(variants: Sequence[Variant], table: str) -> Amounts:
    """The number of training examples of each row, or of harmless ones, from its first seed's rewrite.json."""
    amounts = {}
    for variant in rows_of_table(variants, table):
        if variant.training != "none":
            path = next(iter(variant.folders.values())) / "rewrite.json"
            labels = read_if_there(path, RewriteDocument).get("labels", {})
            amount = sum(labels.values()) if table == "data_size" else labels.get("benign", 0)
            amounts[variant.backbone, variant.name] = variant.rewrite, amount
    return amounts


def draw_doses(title: str, cells: pd.DataFrame | None, amounts: Amounts, across: str, path: Path) -> bool:
    """Draw rates over the number of examples that `across` names, with intervals. Published ones are hollow, dotted."""
    if cells is None or not any(tuple(row) in amounts for row in cells[cells.known][ROW].itertuples(index=False)):
        return False
    grid = pivot(cells)
    rows = [(row[0][0], *amounts[row[0]], row[1:]) for row in grid.itertuples() if row[0] in amounts]
    lines = list(dict.fromkeys((backbone, rewrite) for backbone, rewrite, _, _ in rows))
    ticks = sorted({amount for _, _, amount, _ in rows})
    title += ", with 95 % intervals" + ("; hollow, dotted: published" if cells.published.notna().any() else "")
    with figure(1.2 + 2.3 * len(grid.columns), 3.2, path, title, len(grid.columns)) as (fig, panels):
        for index, (axes, heading) in enumerate(zip(panels, grid.columns, strict=True)):
            for number, line in enumerate(lines):
                offset = DODGE * (number - (len(lines) - 1) / 2)
                doses = sorted((amount, row_cells[index]) for *key, amount, row_cells in rows if tuple(key) == line)
                markers = [(_axis_position(amount) + offset, cell) for amount, cell in doses]
                style = dict(zip(("color", "marker"), look(number), strict=True))
                xs, known = [x for x, cell in markers if cell.known], [cell for _, cell in markers if cell.known]
                bars = {"yerr": error_bars(known), "capsize": 2, "elinewidth": 0.8, "linewidth": 1.2, "markersize": 4}
                axes.errorbar(xs, [100 * cell.value for cell in known], **style, **bars, label=", ".join(line))
                if published := [(x, 100 * cell.published) for x, cell in markers if cell.published >= 0]:
                    hollow = {"markerfacecolor": "white", "ls": ":", "linewidth": 1, "markersize": 5}
                    axes.plot(*zip(*published, strict=True), **style, **hollow)
            axes.set_xticks([_axis_position(tick) for tick in ticks], [f"{tick:,}" for tick in ticks], rotation=45)
            axes.margins(x=0.08, y=0.1)
            axes.set_ylim(bottom=0)
            describe(axes, "\n".join(heading), across, grid="both")
        panels[0].set_ylabel("%")
        fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=min(4, len(panels)))
    return True


def _axis_position(amount: int) -> float:
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
    methods = list(dict.fromkeys(known.method))
    bars = 100 * known.pivot(index=["outcome", "method"], columns="cause", values="value")
    bars = bars.reindex(columns=list(CAUSES)).fillna(0.0)
    bars.insert(0, "", (100 - bars.sum(axis=1)).clip(lower=0.0))
    bars = bars.reindex(pd.MultiIndex.from_product([[outcome for outcome, *_ in PANELS], methods]), fill_value=0.0)
    title = f"{known.backbone.iloc[0]}: outcomes, and what the assessment had said where they were wrong"
    with figure(7.2, 1.7 + 0.3 * len(methods), path, title, 2, sharey=True) as (fig, panels):
        for axes, (outcome, prompts, right) in zip(panels, PANELS, strict=True):
            stack(axes, bars.loc[outcome].to_numpy(), STACK.values())
            axes.set_xlim(0, 100)
            axes.set_xlabel(f"% of {prompts} with a verdict")
            axes.set_title(f"{prompts}: right is {right}", loc="left")
        name_rows(panels, methods)
        name_bars(fig, panels, 4)
    return True


SAYS = {"harmful": "says harmful", "benign": "says harmless", "unassessed": "no assessment"}
FLOW = {
    "refused": ("refused", COLOURS[4], None),
    "answered": ("answered", COLOURS[5], "///"),
    "undecided": ("undecided", RIGHT, None),
}
"""What becomes of an answer -> name, colour and hatch."""
VERDICT_OF = {"thought": "the verdict on the thought", "both": "the verdict on thought and answer"}
"""The part that a protocol judges -> what `FLOW` is there."""
FLOWN = {"harmful_rate": "benchmarks of harm", "over_refusal_rate": "benchmarks of over-refusal"}


def draw_flow(variants: Sequence[Variant], benchmarks: Sequence[BenchmarkKey], path: Path) -> bool:
    """Draw how many texts of one backbone's methods go from each assessment to each outcome, over all seeds.

    A row is what the assessments say, and its parts are what became of the answers; the title says so where the
    protocol judges another part.
    """
    judged = [(v.name, e) for v in variants for key in benchmarks for e in v.all_evaluations.get(key, {}).values()]
    judged = [(method, evaluation) for method, evaluation in judged if evaluation.measure in FLOWN]
    counts = Counter[tuple[str, str, str, str]](
        (evaluation.measure, method, text.assessment or "unassessed", ENDS[text.refused])
        for method, evaluation in judged
        for text in evaluation.texts().values()
        if text.generated
    )
    measured, said = {key[:2] for key in counts}, {key[1:3] for key in counts}
    metrics = [metric for metric in FLOWN if metric in dict(measured)]
    rows = [(variant.name, says) for variant in variants for says in SAYS if (variant.name, says) in said]
    if not rows:
        return False
    seeds = {len(variant.folders) for variant in variants}
    ends = {VERDICT_OF.get(one.decider.part, "what becomes of the answer") for _, one in judged}
    title = f"{variants[0].backbone}: from what the thought's assessment says to {' or '.join(sorted(ends))}"
    title += f", of {min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else ""
    with figure(7.2, 1.5 + 0.24 * len(rows), path, title, len(metrics), sharey=True) as (fig, panels):
        for axes, metric in zip(panels, metrics, strict=True):
            bars = [[counts[metric, *row, end] for end in FLOW] for row in rows]
            stack(axes, bars, FLOW.values())
            texts = [" / ".join(map(str, widths)) for widths in bars]
            texts = [text if (metric, row[0]) in measured else "" for text, row in zip(texts, rows, strict=True)]
            axes.bar_label(axes.containers[-1], texts, padding=3, fontsize=7)
            axes.set_xlim(0, 1.35 * max(map(sum, bars)))
            describe(axes, FLOWN[metric], f"texts: {' / '.join(FLOW)}")
        name_rows(panels, [method for method, _ in rows], [f": {SAYS[says]}" for _, says in rows])
        name_bars(fig, panels, 3)
    return True


def draw_losses(variants: Sequence[Variant], path: Path) -> bool:
    """Draw the training loss by step of one backbone's variants, one line per seed, from logs/metrics.csv."""
    curves: list[tuple[Variant, list[list[tuple[int, float]]]]] = []
    for variant in variants:
        logs = (folder / "logs" / "metrics.csv" for folder in variant.folders.values())
        losses = (read_losses(log) for log in logs if log.is_file())
        seed_curves = [[(step + 1, float(row[LOSS])) for step, row in rows if row.get(LOSS)] for rows in losses]
        if seed_curves := list(filter(None, seed_curves)):
            curves.append((variant, seed_curves))
    if not curves:
        return False
    from matplotlib.ticker import LogLocator, NullFormatter

    with figure(6.6, max(3.2, 0.8 + 0.19 * len(curves)), path) as (fig, (axes,)):
        ends = [f", {len(variant.folders)} seeds" if len(variant.folders) > 1 else "" for variant, _ in curves]
        names = show_names(fig, [variant.name for variant, _ in curves], ends)
        for index, (name, (_, seed_curves)) in enumerate(zip(names, curves, strict=True)):
            colour, dashes = COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]
            opacity = 1.0 if len(seed_curves) == 1 else 0.75
            style = {"color": colour, "linestyle": dashes, "linewidth": 1.2, "alpha": opacity}
            for number, points in enumerate(seed_curves):
                marker = "." if len(points) == 1 else None  # a line of one point would not be seen
                axes.plot(*zip(*points, strict=True), **style, marker=marker, label=None if number else name)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("loss on thought and answer")
        describe(axes, f"Training loss of {curves[0][0].backbone}, a line a seed", "step", grid="both")
        fig.legend(loc="outside right upper")
    return True


TICKS = (0, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)


def lengths(variant: Variant, benchmarks: Sequence[BenchmarkKey]) -> dict[str, list[int]]:
    """Token counts of the generated thoughts on these benchmarks, by label of the prompt, over all seeds."""
    tokens: dict[str, list[int]] = {"harmful": [], "benign": []}
    for benchmark in benchmarks:
        for evaluation in variant.all_evaluations.get(benchmark, {}).values():
            for text in filter(lambda text: text.generated, evaluation.texts().values()):
                tokens[text.label].append(text.thought_tokens)
    return tokens


def draw_lengths(variants: Sequence[Variant], benchmarks: Sequence[BenchmarkKey], path: Path) -> bool:
    """Draw the lengths of one backbone's thoughts by label of the prompt. The axis is linear up to 10 tokens."""
    rows = [(variant, lengths(variant, benchmarks)) for variant in variants]
    rows = [(variant, tokens) for variant, tokens in rows if any(tokens.values())]
    if not rows:
        return False
    longest = max(length for _, tokens in rows for numbers in tokens.values() for length in numbers)
    ticks = [tick for tick in TICKS if tick <= max(longest, 10)]
    title = f"Thoughts of {variants[0].backbone}: median, mean (diamond), quartiles, 5th to 95th percentile"
    style = {"orientation": "horizontal", "whis": (5, 95), "showfliers": False, "showmeans": True, "widths": 0.6}
    style |= {"patch_artist": True, "medianprops": {"color": "black", "linewidth": 1.4}}
    style |= {"meanprops": {"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 4}}
    with figure(7.2, 1.3 + 0.3 * len(rows), path, title, 2, sharey=True, sharex=True) as (_, panels):
        for axes, label in zip(panels, ("harmful", "benign"), strict=True):
            boxes = axes.boxplot([tokens[label] for _, tokens in rows], positions=range(len(rows)), **style)
            for box, (variant, _) in zip(boxes["boxes"], rows, strict=True):
                box.set_facecolor(BEFORE if variant.untrained else COLOURS[4])
            axes.set_xscale("symlog", linthresh=10, linscale=0.4)
            axes.set_xlim(left=-0.5)
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45 if longest > 500 else 0)
            axes.minorticks_off()
            describe(axes, f"{'harmful' if label == 'harmful' else 'harmless'} prompts", "tokens of the thought")
        name_rows(panels, [variant.name for variant, _ in rows])
    return True
