"""What became of harmful and harmless prompts, and what the assessment had said where that was wrong: stacked bars."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alttrain.report.columns import CAUSES
from alttrain.report.entries import Entry
from alttrain.report.figures.drawing import COLOURS, figure

PANELS = (("answered", "harmful prompts", "refused"), ("refused", "harmless prompts", "answered"))
SAID = {"misjudged": "misjudged", "disobeyed": "judged rightly, not acted on", "unassessed": "without an assessment"}
HATCHES = {"misjudged": "///", "disobeyed": "...", "unassessed": "xx"}
RIGHT = "#DDDDDD"


def shares(entries: Sequence[Entry]) -> dict[str, dict[str, dict[str, float]]]:
    """Row -> outcome that is wrong -> the share of each cause, and of what went right under ""."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for one in entries:
        outcome, _, cause = one.measure.partition("_")
        if cause in CAUSES and one.known:
            rows.setdefault(one.method, {}).setdefault(outcome, {})[cause] = one.value
    for own in rows.values():
        for found in own.values():
            found[""] = max(0.0, 1 - sum(found.values()))
    return rows


def draw(entries: Sequence[Entry], path: Path) -> bool:
    """Draw one backbone's rows of one protocol; False where there are none."""
    rows = shares(entries)
    if not rows:
        return False
    with figure(7.2, 1.7 + 0.3 * len(rows), path) as drawn:
        panels = drawn.subplots(1, 2, sharey=True)
        for axes, (outcome, prompts, right) in zip(panels, PANELS, strict=True):
            for place, own in enumerate(rows.values()):
                _stack(axes, place, own.get(outcome, {}))
            axes.set_xlim(0, 100)
            axes.set_xlabel(f"% of {prompts} with a verdict")
            axes.set_title(f"{prompts}: right is {right}", loc="left")
        title = f"{entries[0].backbone}: outcomes, and what the assessment had said where they were wrong"
        drawn.suptitle(title, x=0.01, ha="left", fontsize=9)
        panels[0].set_yticks(range(len(rows)), list(rows))
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        handles, names = panels[0].get_legend_handles_labels()
        found = dict(zip(names, handles, strict=True))
        drawn.legend(found.values(), found.keys(), loc="outside lower left", ncols=4)
    return True


def _stack(axes: Any, place: int, own: dict[str, float]) -> None:
    left = 0.0
    for index, cause in enumerate(("", *CAUSES)):
        width = 100 * own.get(cause, 0.0)
        axes.barh(
            place,
            width,
            left=left,
            height=0.7,
            color=RIGHT if not cause else COLOURS[index],
            edgecolor="white",
            linewidth=0.5,
            hatch=HATCHES.get(cause),
            label=f"wrong: {SAID[cause]}" if cause else "right",
        )
        left += width
