"""All figures of a report, as PNG and SVG.

- tradeoff                                main table: harmful rate over over-refusal, with accuracy as brightness
- main, ablation_structure, teacher_swap  these tables as bars, one panel per column
- data_size, benign_amount                these tables over the number of training examples, or of harmless ones
- adherence-BACKBONE                      outcomes, with the assessment's verdict for the wrong ones
- losses-BACKBONE, lengths-BACKBONE       training loss by step, and tokens of the thoughts

A protocol other than the default is added to the name after a dot. A figure without data is not drawn; `draw_...` then
returns False.
"""

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from alttrain.records import read_losses
from alttrain.report.drawing import BEFORE, COLOURS, MARKERS, RIGHT, STYLES, arms, describe, figure, name_rows
from alttrain.report.measures import CAUSES, OFFLINE
from alttrain.report.results import Made
from alttrain.report.tables import ROW, TABLES, listed, pivot
from alttrain.report.tradeoff import draw_tradeoff
from alttrain.report.variants import Variant, label, pool, protocols_of

LONGEST = 100
"""Maximum number of characters of a file name."""
Draw = Callable[[Path], bool]


def draw_all(tables: Mapping[str, pd.DataFrame], variants: Sequence[Variant], folder: Path) -> list[Path]:
    """Draw every figure that has data. Returns the files written."""
    drawings: list[tuple[str, Draw]] = []
    for backbone, alike in _by_backbone(variants).items():
        drawings.append((f"losses-{backbone}", partial(draw_losses, alike)))
    for protocol, found in protocols_of(variants).items():
        suffix = "" if protocol in ("", OFFLINE) else f".{protocol}"
        own = {name: cells[cells.protocol == protocol] for name, cells in tables.items()}
        own = {name: cells for name, cells in own.items() if len(cells)}
        pooled = pool(found, protocol)
        drawn: dict[str, Draw] = {"tradeoff": partial(draw_tradeoff, own.get("main", own.get("overview")))}
        for name, table in TABLES.items():
            if table.figure == "bars":
                drawn[name] = partial(draw_bars, table.title, own.get(name))
            elif table.figure == "doses":
                drawn[name] = partial(draw_doses, table.title, own.get(name), _amounts(found, name))
        for backbone, alike in _by_backbone(found).items():
            assessed = own.get("adherence")
            assessed = None if assessed is None else assessed[assessed.backbone == backbone]
            drawn[f"adherence-{backbone}"] = partial(draw_adherence, assessed)
            drawn[f"lengths-{backbone}"] = partial(draw_lengths, alike, pooled)
        drawings += [(f"{name}{suffix}", draw) for name, draw in drawn.items()]
    named = [(folder / _file_name(name), draw) for name, draw in drawings]
    return [path.with_name(f"{path.name}.{form}") for path, draw in named if draw(path) for form in ("png", "svg")]


def _by_backbone(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    backbones = dict.fromkeys(variant.backbone for variant in variants)
    return {name: [variant for variant in variants if variant.backbone == name] for name in backbones}


def _file_name(name: str) -> str:
    """A figure's name as a valid file name, since names of backbones and protocols are free text."""
    plain = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:LONGEST]
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode('utf-8', 'replace')):08x}"


# --- tables ---


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
    width, height = 1.6 + 1.7 * len(grid.columns), 0.9 + 0.22 * len(rows)
    with figure(width, height, path, f"{title}, with 95 % intervals{told}") as drawn:
        panels = drawn.subplots(1, len(grid.columns), sharey=True, squeeze=False)[0]
        for index, (axes, heading) in enumerate(zip(panels, grid.columns, strict=True)):
            for place, (method, own) in enumerate(rows):
                if own and (cell := own[index]).known:
                    look = {"color": BEFORE if method.startswith("No-train") else COLOURS[4], "height": 0.7}
                    reach = None if math.isnan(cell.low) else arms([cell])
                    error = {"elinewidth": 0.9, "capsize": 2}
                    axes.barh(place, 100 * cell.value, xerr=reach, error_kw=error, **look)
                if own and not math.isnan(own[index].published):
                    look = {"marker": "D", "markersize": 5, "markerfacecolor": COLOURS[1], "markeredgecolor": "white"}
                    look |= {"markeredgewidth": 0.7, "linestyle": "none", "clip_on": False, "zorder": 5}
                    axes.plot(100 * own[index].published, place, **look)
            axes.set_xlim(0, 102)
            axes.tick_params(axis="y", length=0)
            describe(axes, "\n".join(heading), "%", size=8)
        name_rows(panels, [name for name, _ in rows])
        for text, (_, own) in zip(panels[0].get_yticklabels(), rows, strict=True):
            text.set_fontweight("normal" if own else "bold")
    return True


LINEAR, DODGE = 50, 0.03
"""Number of examples up to which the axis is linear, so that it can show 0; distance between the lines' markers."""
Amounts = Mapping[tuple[str, str], tuple[str, int]]
"""(backbone, label) of a row -> (its line, its number of examples)."""


def _amounts(found: Sequence[Variant], table: str) -> Amounts:
    """The number of training examples of each row, or of harmless ones."""
    rows = [(row, row.variant) for row in listed(found, table) if row.variant and row.variant.training != "none"]
    return {
        (row.backbone, row.label): (
            one.rewrite,
            sum(one.labels.values()) if table == "data_size" else one.labels.get("benign", 0),
        )
        for row, one in rows
    }


def draw_doses(title: str, cells: pd.DataFrame | None, amounts: Amounts, path: Path) -> bool:
    """Draw rates over the number of training examples, with intervals. Published ones are hollow and dotted."""
    if cells is None or not any(tuple(row) in amounts for row in cells[cells.known][ROW].itertuples(index=False)):
        return False
    grid = pivot(cells)
    rows = [(row[0][0], *amounts[row[0]], row[1:]) for row in grid.itertuples() if row[0] in amounts]
    names = list(dict.fromkeys((backbone, line) for backbone, line, _, _ in rows))
    ticks = sorted({amount for _, _, amount, _ in rows})
    told = "; hollow, dotted: published" if cells.published.notna().any() else ""
    with figure(1.2 + 2.3 * len(grid.columns), 3.2, path, f"{title}, with 95 % intervals{told}") as drawn:
        panels = drawn.subplots(1, len(grid.columns), squeeze=False)[0]
        for index, (axes, heading) in enumerate(zip(panels, grid.columns, strict=True)):
            for number, named in enumerate(names):
                own = sorted((amount, own[index]) for *line, amount, own in rows if tuple(line) == named)
                _line(axes, number, ", ".join(named), own, aside=DODGE * (number - (len(names) - 1) / 2))
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


def _line(axes: Any, number: int, name: str, own: Sequence[tuple[int, Any]], aside: float) -> None:
    look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
    known = [(_place(amount) + aside, cell) for amount, cell in own if cell.known]
    error = {"capsize": 2, "elinewidth": 0.8, "yerr": arms([cell for _, cell in known])}
    values = [100 * cell.value for _, cell in known]
    axes.errorbar([x for x, _ in known], values, **look, **error, linewidth=1.2, markersize=4, label=name)
    reported = [(_place(amount) + aside, 100 * cell.published) for amount, cell in own if cell.published >= 0]
    if reported:
        axes.plot(*zip(*reported, strict=True), **look, markerfacecolor="white", ls=":", linewidth=1, markersize=5)


PANELS = (("answered", "harmful prompts", "refused"), ("refused", "harmless prompts", "answered"))
SAID = {"misjudged": "misjudged", "disobeyed": "judged rightly, not acted on", "unassessed": "without an assessment"}
HATCHES = {"misjudged": "///", "disobeyed": "...", "unassessed": "xx"}


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
    with figure(7.2, 1.7 + 0.3 * len(rows), path, title) as drawn:
        panels = drawn.subplots(1, 2, sharey=True)
        for axes, (outcome, prompts, right) in zip(panels, PANELS, strict=True):
            for place, method in enumerate(rows):
                own = [float(shares.get((method, outcome, cause), 0.0)) for cause in CAUSES]
                there = (method, outcome) in shares.index.droplevel("cause")
                left = 0.0
                for index, width in enumerate([max(0.0, 1 - sum(own)) if there else 0.0, *own]):
                    cause = ("", *CAUSES)[index]
                    look = {"height": 0.7, "edgecolor": "white", "linewidth": 0.5, "hatch": HATCHES.get(cause)}
                    look |= {"color": COLOURS[index] if cause else RIGHT}
                    name = f"wrong: {SAID[cause]}" if cause else "right"
                    axes.barh(place, 100 * width, left=left, label=name, **look)
                    left += 100 * width
            axes.set_xlim(0, 100)
            axes.set_xlabel(f"% of {prompts} with a verdict")
            axes.set_title(f"{prompts}: right is {right}", loc="left")
        name_rows(panels, rows)
        handles, names = panels[0].get_legend_handles_labels()
        found = dict(zip(names, handles, strict=True))
        drawn.legend(found.values(), found.keys(), loc="outside lower left", ncols=4)
    return True


# --- runs ---


def draw_losses(variants: Sequence[Variant], path: Path) -> bool:
    """Draw the training loss by step of one backbone's variants, one line per seed, from logs/metrics.csv."""
    curves: list[tuple[Variant, list[list[tuple[int, float]]]]] = []
    for one in variants:
        logs = (folder / "logs" / "metrics.csv" for folder in one.folders.values())
        read = (
            [(step + 1, float(row["loss"])) for step, row in read_losses(log) if row.get("loss")]
            for log in logs
            if log.exists()
        )
        if own := list(filter(None, read)):
            curves.append((one, own))
    if not curves:
        return False
    from matplotlib.ticker import LogLocator, NullFormatter

    with figure(6.6, max(3.2, 0.8 + 0.19 * len(curves)), path) as drawn:
        axes = drawn.add_subplot()
        for index, (one, own) in enumerate(curves):
            name = label(one, variants) + (f", {len(one.folders)} seeds" if len(one.folders) > 1 else "")
            colour, line = COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]
            look: dict[str, Any] = {"color": colour, "linestyle": line}
            look |= {"linewidth": 1.2, "alpha": 1.0 if len(own) == 1 else 0.75}
            for seed, found in enumerate(own):
                axes.plot(*zip(*found, strict=True), **look, label=None if seed else name)
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
    for one in made:
        for evaluation in variant.judged.get(one, {}).values():
            for row in evaluation.tokens():
                found[row.label].append(row.thought_tokens)
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
    with figure(7.2, 1.3 + 0.3 * len(rows), path, title) as drawn:
        panels = drawn.subplots(1, 2, sharey=True, sharex=True)
        for axes, name in zip(panels, ("harmful", "benign"), strict=True):
            boxes = axes.boxplot(
                [own[name] for _, own in rows],
                positions=range(len(rows)),
                orientation="horizontal",
                whis=(5, 95),
                showfliers=False,
                showmeans=True,
                widths=0.6,
                patch_artist=True,
                medianprops={"color": "black", "linewidth": 1.4},
                meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 4},
            )
            for box, (one, _) in zip(boxes["boxes"], rows, strict=True):
                box.set_facecolor(BEFORE if one.untrained else COLOURS[4])
            axes.set_xscale("symlog", linthresh=10, linscale=0.4)
            axes.set_xlim(left=-0.5)
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45 if longest > 500 else 0)
            axes.minorticks_off()
            describe(axes, f"{'harmful' if name == 'harmful' else 'harmless'} prompts", "tokens of the thought")
        name_rows(panels, [label(one, variants) for one, _ in rows])
    return True
