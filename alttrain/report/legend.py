"""What stands beneath a table: the marks it has, what its means are over, and what to run for what is missing."""

import csv
import math
from collections.abc import Sequence
from importlib import resources

from alttrain.report.columns import ASSESSING, FAILURES, MEASURES
from alttrain.report.comparisons import starred
from alttrain.report.entries import Entry
from alttrain.report.published import WHY

DIFFERS, FEW, COVERED, NOT_COVERED, MISSING = "*", "†", "✓", "✗", "–"
LISTED = 12
"""Commands a legend lists; the table's CSV has all."""


def legend(entries: Sequence[Entry]) -> list[str]:
    """All lines that apply, commands apart."""
    return [*marks_legend(entries), *_sets(entries), *_failures(entries), *_parser(entries), *_published(entries)]


def marks_legend(entries: Sequence[Entry]) -> list[str]:
    """What the numbers and their marks are."""
    lines = [_units(entries)]
    if any(one.seeds > 1 for one in entries):
        lines.append("Of several seeds the interval allows for other seeds, too.")
    if any(one.best for one in entries):
        lines.append("Bold: best of its backbone in the column.")
    if stars := [one.seeds for one in entries if one.differs]:
        lines.append(f"{DIFFERS} {starred(stars)}")
    if any(one.few for one in entries):
        lines.append(
            f"{FEW} not enough data: were the true difference as small as this one, a paired test of as many prompts "
            "and seeds (5 %, before Holm) would miss it more than one time in five."
        )
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
    if all(math.isnan(one.low) for one in entries):
        parts = ["Shares in percent"]
    else:
        parts = [
            "Percent with its 95 % interval, and the n texts it is over" if shares else "Means with their 95 % interval"
        ]
    parts += ["↓ lower is better"] if -1 in ways else []
    parts += ["↑ higher is better"] if 1 in ways else []
    return "; ".join(parts) + "."


def _sets(entries: Sequence[Entry]) -> list[str]:
    """Which benchmarks means and pools are over."""
    lines = []
    means = dict.fromkeys((MEASURES[one.measure].label, one.benchmark) for one in entries if one.kind == "mean")
    lines += [f"Mean of {name}: {benchmark}." for name, benchmark in means]
    told = dict.fromkeys((one.protocol, one.evaluated) for one in entries if one.evaluated and one.kind != "pool")
    lines += [f"Evaluated otherwise than protocol {protocol} says: {changed}." for protocol, changed in told]
    if any(one.lacking for one in entries):
        lines.append("without: the sets that a row lacks, and so has no mean.")
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


def _parser(entries: Sequence[Entry]) -> list[str]:
    """How often the parser reads a thought as people do, where figures rest on it; each kind of thought its line.

    The figures are those of parser_error.csv, which scripts/measure_parser.py writes.
    """
    if not any(one.measure in ASSESSING for one in entries):
        return []
    with resources.as_file(resources.files("alttrain.report") / "parser_error.csv") as path:
        rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    lines = []
    for thoughts, measured in dict.fromkeys((row["thoughts"], row["measured"]) for row in rows):
        told = "; ".join(
            f"{row['field']} {row['right']} of {row['n']}"
            for row in rows
            if (row["thoughts"], row["measured"]) == (thoughts, measured)
        )
        lines.append(f"Read by the parser as people read it, {thoughts} ({measured}): {told}.")
    return lines


def unmatched(entries: Sequence[Entry]) -> list[str]:
    """Why numbers have no published figure beside them, each reason once."""
    return [why for why in WHY if any(one.known and one.published_why == why for one in entries)]


def marked(entries: Sequence[Entry]) -> bool:
    """Whether cells carry their reason: not where one holds for all, which the legend says."""
    return len(unmatched(entries)) > 1 or any(not math.isnan(one.published) for one in entries)


def _published(entries: Sequence[Entry]) -> list[str]:
    """What the published figures are, and why they are not shown."""
    lines = []
    if entries and entries[0].table == "published":
        sources = dict.fromkeys((one.protocol, one.source.partition(",")[0]) for one in entries if one.source)
        lines += [f"Protocol {protocol}: {source}." for protocol, source in sources]
        lines.append("The CSV has each figure's source, and what is known of how it was made.")
    elif any(not math.isnan(one.published) for one in entries):
        judged = any(one.covered is not None for one in entries)
        told = f"; {COVERED} our interval covers it, {NOT_COVERED} it does not" if judged else ""
        lines.append(
            f"published: reported for this method, unmodified, this protocol and these sets{told}. "
            "alttrain/report/published.csv has each figure's source, and what is known of how it was made."
        )
    found = unmatched(entries)
    if found and marked(entries):
        lines.append("No published figure: " + "; ".join(f"{WHY[why][0]} {WHY[why][1]}" for why in found) + ".")
    elif found:
        lines.append(f"No published figures here: {WHY[found[0]][1]}.")
    return lines
