"""How long thoughts are, before training and after: the tokens of each thought, harmful and harmless prompts apart."""

from collections.abc import Sequence
from pathlib import Path

from alttrain.report import items
from alttrain.report.figures.drawing import BEFORE, COLOURS, figure
from alttrain.report.variants import Made, Variant, label

LINEAR = 10
"""Tokens up to which the axis is linear: a thought may have none."""
LABELS = ("harmful", "benign")
TICKS = (0, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)


def lengths(variant: Variant, made: Sequence[Made]) -> dict[str, list[int]]:
    """Tokens of the thoughts on these benchmarks by the prompts' label, all seeds together."""
    found: dict[str, list[int]] = {name: [] for name in LABELS}
    for one in made:
        for evaluation in variant.judged.get(one, {}).values():
            for row in items.tokens(evaluation):
                found[row.label].append(row.thought_tokens)
    return found


def draw(variants: Sequence[Variant], made: Sequence[Made], path: Path) -> bool:
    """Draw one backbone's variants, No-train among them; False where nothing was generated."""
    rows = [(label(one, variants), one.untrained, lengths(one, made)) for one in variants]
    rows = [row for row in rows if any(row[2].values())]
    if not rows:
        return False
    with figure(7.2, 1.3 + 0.3 * len(rows), path) as drawn:
        panels = drawn.subplots(1, 2, sharey=True, sharex=True)
        for axes, name in zip(panels, LABELS, strict=True):
            values = [own[name] for _, _, own in rows]
            boxes = axes.boxplot(
                values,
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
            for box, (_, untrained, _) in zip(boxes["boxes"], rows, strict=True):
                box.set_facecolor(BEFORE if untrained else COLOURS[4])
            axes.set_xscale("symlog", linthresh=LINEAR, linscale=0.4)
            axes.set_xlim(left=-0.5)
            longest = max(value for _, _, own in rows for found in own.values() for value in found)
            ticks = [tick for tick in TICKS if tick <= max(longest, LINEAR)]
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45 if longest > 500 else 0)
            axes.minorticks_off()
            axes.set_xlabel("tokens of the thought")
            axes.set_title(f"{'harmful' if name == 'harmful' else 'harmless'} prompts", loc="left")
            axes.grid(axis="x", alpha=0.25)
        panels[0].set_yticks(range(len(rows)), [name for name, _, _ in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        title = f"Thoughts of {variants[0].backbone}: median, mean (diamond), quartiles, 5th to 95th percentile"
        drawn.suptitle(title, x=0.01, ha="left", fontsize=9)
    return True
