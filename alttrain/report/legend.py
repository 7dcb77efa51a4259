"""What stands beneath a table: the marks it has, what its means are over, and what to run for what is missing."""

from collections.abc import Sequence

from alttrain.report.columns import FAILURES, MEASURES
from alttrain.report.entries import Entry
from alttrain.report.published import published
from alttrain.report.rows import OFFLINE

DIFFERS, FEW, COVERED, NOT_COVERED, MISSING = "*", "†", "✓", "✗", "–"
LISTED = 12
"""Commands a legend lists; the table's CSV has all."""


def legend(entries: Sequence[Entry]) -> list[str]:
    """All lines that apply, commands apart."""
    return [*marks_legend(entries), *_sets(entries), *_failures(entries), *_published(entries)]


def marks_legend(entries: Sequence[Entry]) -> list[str]:
    """What the numbers and their marks are."""
    lines = [_units(entries)]
    if any(one.seeds > 1 for one in entries):
        lines.append("n: prompts × seeds. The interval also allows for other seeds; the test is of these models.")
    if any(one.best for one in entries):
        lines.append("Bold: best of its backbone in the column.")
    if any(one.differs for one in entries):
        lines.append(f"{DIFFERS} differs from No-train (exact test over prompts, Holm over the table, 5 %).")
    if any(one.few for one in entries):
        lines.append(f"{FEW} not enough data: on so few prompts no difference from No-train this small would show.")
    if any(one.notes for one in entries):
        lines.append("undecided, truncated: texts without a verdict, and cut by the token cap, where over 5 %.")
    return lines


def commands(entries: Sequence[Entry]) -> list[str]:
    """What to run for the cells that are missing, each command once."""
    return list(dict.fromkeys(one.command for one in entries if one.command))


def missing(entries: Sequence[Entry]) -> list[str]:
    """The commands as many as a legend lists, and how many more there are."""
    found = commands(entries)
    more = len(found) - LISTED
    return [*found[:LISTED], *([f"and {more} more: see the command column of the CSV"] if more > 0 else [])]


def _units(entries: Sequence[Entry]) -> str:
    """The first line: what numbers are, and which way is better."""
    ways = {MEASURES[one.measure.partition(".")[0]].better for one in entries}
    shares = any(one.unit == "share" for one in entries)
    parts = ["Percent with its 95 % interval, and n prompts" if shares else "Means with their 95 % interval"]
    parts += ["↓ lower is better"] if -1 in ways else []
    parts += ["↑ higher is better"] if 1 in ways else []
    return "; ".join(parts) + "."


def _sets(entries: Sequence[Entry]) -> list[str]:
    """Which benchmarks means and pools are over."""
    lines = []
    means = dict.fromkeys((MEASURES[one.measure].label, one.benchmark) for one in entries if one.kind == "mean")
    lines += [f"Mean of {name}: {benchmark}." for name, benchmark in means]
    for protocol, benchmark in dict.fromkeys((one.protocol, one.benchmark) for one in entries if one.kind == "pool"):
        own = [one for one in entries if (one.protocol, one.benchmark, one.kind) == (protocol, benchmark, "pool")]
        named = list(dict.fromkeys(MEASURES[one.measure].label for one in own))
        what = ", ".join(named).capitalize() if len(named) <= 3 else "These rates"
        lines.append(f"{what}: over all prompts of {benchmark}.")
    return list(dict.fromkeys(lines))


def _failures(entries: Sequence[Entry]) -> list[str]:
    """What the causes of failures are."""
    if not any(one.measure in FAILURES for one in entries):
        return []
    return [
        "answered: of the harmful prompts with a verdict, those that were answered; refused: likewise of the harmless.",
        "misjudged: the assessment was wrong; disobeyed: it was right and not acted on; unassessed: there was none.",
    ]


def _published(entries: Sequence[Entry]) -> list[str]:
    """What the published figures are, or why they are not shown."""
    if any(one.covered is not None for one in entries):
        return [
            f"published: the paper's figure; {COVERED} our interval covers it, {NOT_COVERED} it does not. Its sets and "
            "its judge are not all known: see alttrain/report/published.csv for each figure's source."
        ]
    if any(one.source for one in entries):
        return ["published: the paper's figure; alttrain/report/published.csv has its source."]
    backbones = {one.backbone for one in published() if one.backbone}
    if any(one.protocol == OFFLINE and one.backbone in backbones for one in entries):
        return ["Published figures were judged by models: they stand beside protocol=alttrain, not beside phrases."]
    return []
