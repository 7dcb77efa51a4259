"""The page's tables: results, outcomes, structure, comparisons, and all numbers.

Each number is in the CSV files of the report, too; here it can be sorted, and the outcomes lead to their samples.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlencode

from alttrain.report.comparisons import Compared, starred
from alttrain.report.entries import Entry, written
from alttrain.report.page.markup import Names, Td, breakable, percent, section, table, text
from alttrain.report.page.outcomes import OUTCOMES
from alttrain.report.page.samples import Block
from alttrain.report.runs import Cell
from alttrain.report.structure import Structure
from alttrain.report.table import pooled

MEASURES = {"harmful_rate": ("harmful", "↓"), "over_refusal_rate": ("over-refusal", "↓"), "accuracy": ("accuracy", "↑")}
POOLED = {"adherence_rate": "adherence ↑", "thought_tokens": "thought tokens", "answer_tokens": "answer tokens"}
WORTH_SAYING = 0.05
"""Share of undecided or truncated rows from which a number carries their count."""
MOST_NUMBERS = 4_000
"""Rows of the table of all numbers; a report with more has them in metrics.csv alone."""
Column = tuple[int, str, str, str, str]
"""Order of the measure, benchmark, protocol, metric and the protocol's hash: numbers made alike share a column."""


def results(cells: Sequence[Cell], compared: Sequence[Compared], names: Names) -> str:
    """A row a run, a column for each benchmark's measure, then adherence and tokens over all of a run's samples."""
    differs = {(c.run, c.benchmark, c.metric, c.protocol_hash) for c in compared if c.significant}
    columns = sorted({_column(cell) for cell in cells if _measure(cell) in MEASURES})
    best = {column: _best(column, [cell for cell in cells if _column(cell) == column]) for column in columns}
    rows = []
    for run in dict.fromkeys(cell.run for cell in cells):
        own = [cell for cell in cells if cell.run == run]
        at = {_column(cell): cell for cell in own if _measure(cell) in MEASURES}
        rates = [_rate(at.get(column), best[column], differs) for column in columns]
        means = [_pooled([cell for cell in own if cell.metric == metric]) for metric in POOLED]
        rows.append([_run(run, names), *rates, *means])
    several = len({column[2] for column in columns}) > 1
    heads = ["run", *(_heading(column, several) for column in columns), *POOLED.values()]
    caption = (
        "Percent with its 95 % interval; ↓ lower is better, ↑ higher is better; the best of a column is underlined."
    )
    if stars := [one.seeds for one in compared if one.significant]:
        caption += f" * {starred(stars)}"
    return section("results", "Results", table(caption, heads, rows, "Results"))


def _column(cell: Cell) -> Column:
    order = list(MEASURES).index(_measure(cell)) if _measure(cell) in MEASURES else len(MEASURES)
    return order, cell.benchmark, cell.protocol, cell.metric, cell.protocol_hash


def _measure(cell: Cell) -> str:
    """The measure of a metric: "harmful_rate" of "harmful_rate.thought", which another part or judge decides."""
    return cell.metric.partition(".")[0]


def _heading(column: Column, several: bool) -> str:
    _, benchmark, protocol, metric, digest = column
    measure, _, variant = metric.partition(".")
    name, arrow = MEASURES[measure]
    made = f"{protocol} {digest}" if several else ""
    parts = "".join(f"<br><small>{breakable(part)}</small>" for part in (variant, benchmark, made) if part)
    return f"{name} {arrow}{parts}"


def _best(column: Column, cells: Sequence[Cell]) -> float:
    """The best value of a column; nan where there is nothing to be better than."""
    values = [cell.value for cell in cells if not math.isnan(cell.value)]
    lower = MEASURES[column[3].partition(".")[0]][1] == "↓"
    return (min(values) if lower else max(values)) if len(set(values)) > 1 else math.nan


def _rate(cell: Cell | None, best: float, differs: set[tuple[str, str, str, str]]) -> Td:
    if cell is None:
        return Td("")
    marks = [f"n={cell.n - cell.undecided}"]
    marks += [
        f"{count} {name}"
        for count, name in ((cell.undecided, "undecided"), (cell.truncated, "truncated"))
        if count > WORTH_SAYING * cell.n
    ]
    small = " ".join(f'<small class="{"n" if n == 0 else "mark"}">{mark}</small>' for n, mark in enumerate(marks))
    if math.isnan(cell.value):
        return Td(f"undecided {small}")
    star = (
        '<sup title="differs from the No-train run">*</sup>'
        if (cell.run, cell.benchmark, cell.metric, cell.protocol_hash) in differs
        else ""
    )
    number = percent(cell.value, cell.low, cell.high).replace("</b>", f"</b>{star}", 1)
    return Td(f"{number}<div>{small}</div>", cell.value, "best" if cell.value == best else "")


def _pooled(cells: Sequence[Cell]) -> Td:
    """The mean over all rows of all benchmarks."""
    mean = pooled(cells)
    if math.isnan(mean):
        return Td("")
    return Td(f"<b>{100 * mean:.1f}</b>" if cells[0].metric == "adherence_rate" else f"{mean:.0f}", mean)


def outcomes(blocks: Sequence[Block], names: Names) -> str:
    """How many samples came to what, for each run and benchmark; a count leads to its samples."""
    known = [outcome for outcome in OUTCOMES if any(block.outcomes[outcome.key] for block in blocks)]
    rows = []
    for block in blocks:
        run, benchmark = block.evaluation.run, block.evaluation.benchmark
        at = {"run": run, "benchmark": benchmark}
        everything = Td(_link(block.total, at, f"all samples of {run} on {benchmark}"), block.total)
        row = [_run(run, names), Td.of(benchmark), everything]
        for outcome in known:
            count = block.outcomes[outcome.key]
            label = f"{outcome.label}, {run} on {benchmark}"
            row.append(Td(_link(count, {**at, "outcome": outcome.key}, label), count) if count else Td("0", 0, "zero"))
        rows.append(row)
    heads = ["run", "benchmark", "samples"]
    heads += [f'<span title="{text(outcome.title)}">{text(outcome.label)}</span>' for outcome in known]
    caption = "Samples by outcome; a sample can have several. Each number opens its samples below."
    return section("outcomes", "Outcomes", table(caption, heads, rows, "Outcomes"))


def _link(count: int, at: dict[str, str], label: str) -> str:
    return f'<a href="#{text(urlencode(at))}" aria-label="{count} {text(label)}">{count}</a>'


def structure(found: Sequence[Structure], names: Names) -> str:
    """The assessment as a classifier of requests, and what it said where the outcome was wrong."""
    rows, several = [], len({one.protocol for one in found}) > 1
    for one in found:
        rates = [
            Td(percent(*triple), triple[0]) if not math.isnan(triple[0]) else Td("")
            for triple in (
                (one.precision, one.precision_low, one.precision_high),
                (one.recall, one.recall_low, one.recall_high),
                (one.false_alarms, one.false_alarms_low, one.false_alarms_high),
            )
        ]
        counts = [
            Td(f"{getattr(one, name)}", getattr(one, name))
            for outcome in ("answered", "refused")
            for name in (f"{outcome}_misjudged", f"{outcome}_disobeyed", f"{outcome}_unassessed")
        ]
        counts.insert(3, Td.of(one.benign_n))
        protocol = [Td.of(one.protocol)] if several else []
        rows.append([_run(one.run, names), *protocol, *rates, Td.of(one.harmful_n), *counts])
    heads = ["run", *(["protocol"] if several else []), "precision", "recall", "false alarms", "harmful n"]
    heads += ["answered: misjudged", "answered: disobeyed", "answered: no assessment", "harmless n"]
    heads += ["refused: misjudged", "refused: disobeyed", "refused: no assessment"]
    caption = (
        "The assessment as a classifier of harmful requests, percent. Right: harmful requests that were answered and "
        "harmless ones that were refused, by what the assessment had said."
    )
    return section("structure", "Structure", table(caption, heads, rows, "Structure")) if rows else ""


def comparisons(compared: Sequence[Compared], names: Names) -> str:
    """Each run against the No-train run, on the same prompts."""
    rows = []
    for one in compared:
        change = "" if math.isnan(one.difference) else f"<b>{_points(one.difference)}</b>"
        interval = f' <span class="interval">{_points(one.low)} to {_points(one.high)}</span>' if change else ""
        row = [
            _run(one.run, names),
            Td.of(one.benchmark),
            Td.of(one.metric),
            _share(one.baseline_value),
            _share(one.value),
        ]
        row += [Td(change + interval, one.difference if change else None), _p(one.p), _p(one.p_holm)]
        row += [Td.of(one.n), Td.of(one.gained), Td.of(one.lost), Td("yes" if one.significant else "no")]
        rows.append(row)
    heads = [
        "run",
        "benchmark",
        "metric",
        "No\u2011train %",
        "run\u00a0%",
        "change",
        "p",
        "p\u00a0(Holm)",
        "n",
        "gained",
        "lost",
    ]
    caption = (
        "Paired by prompt: the change of this run in points with its 95 % interval. p and Holm's, which is over all "
        "contrasts of the report, are the tables', of all seeds of the method together. "
        f"yes: {starred([one.seeds for one in compared] or [1])}"
    )
    body = table(caption, [*heads, "differs"], rows, "Comparisons")
    return section("comparisons", "Against the No-train run", body) if rows else ""


def published(tables: Mapping[str, Sequence[Entry]]) -> str:
    """Our numbers beside the published figures, or why there is none; and all known figures, folded away."""
    own = {
        (one.protocol, one.backbone, one.method, one.measure, one.benchmark, one.protocol_hash): one
        for name, entries in tables.items()
        if name != "published"
        for one in entries
        if one.known and (one.published_why or not math.isnan(one.published))
    }
    rows = []
    for one in own.values():
        told = {True: "within our interval", False: "outside our interval", None: ""}[one.covered]
        figure = _number(one.published, one.unit) if not one.published_why else Td(f"none: {one.published_why}")
        names = [Td.of(name) for name in (f"{one.backbone}, {one.method}", one.protocol, one.measure, one.benchmark)]
        rows.append([*names, _number(one.value, one.unit), figure, Td.of(told or one.source)])
    heads = ["method", "protocol", "measure", "benchmarks", "ours", "published", "note"]
    caption = (
        "A figure stands beside the same method, unmodified, by the same protocol on the same sets. Shares: percent."
    )
    known = [
        [*(Td.of(name) for name in names), _number(one.value, one.unit), Td.of(one.source)]
        for one in tables.get("published", ())
        if one.known
        for names in [(f"{one.backbone}, {one.method}", one.protocol, one.measure, one.benchmark)]
    ]
    every = table("As in tables/published.csv.", [*heads[:4], "published", "source"], known, "All published figures")
    body = table(caption, heads, rows, "Published figures") if rows else ""
    body += f"<details><summary>{len(known)} published figures, by source</summary>\n{every}</details>"
    return section("published", "Published figures", body)


def _number(value: float, unit: str) -> Td:
    return Td.of(math.nan) if math.isnan(value) else Td(written(value, unit), value)


def _share(value: float) -> Td:
    return Td("") if math.isnan(value) else Td(f"{100 * value:.1f}", value)


def _points(change: float) -> str:
    return f"{100 * change:+.1f}".replace("-", "−")


def _p(value: float) -> Td:
    return Td("") if math.isnan(value) else Td("&lt; 0.0001" if value < 1e-4 else f"{value:.4f}", value)


def numbers(cells: Sequence[Cell], names: Names) -> str:
    """Every metric of every run and benchmark, folded away."""
    if len(cells) > MOST_NUMBERS:
        body = f"<p>{len(cells):,} numbers are in metrics.csv beside this page.</p>"
        return section("numbers", "All numbers", body)
    heads = ["run", "benchmark", "metric", "value", "low", "high", "n", "undecided", "truncated", "protocol", "hash"]
    table_ = table("As in metrics.csv: rates are shares of 1.", heads, _tidy(cells, names), "All numbers")
    return section(
        "numbers",
        "All numbers",
        f"<details><summary>{len(cells):,} numbers of every run and benchmark</summary>\n{table_}</details>",
    )


def _tidy(cells: Iterable[Cell], names: Names) -> Iterable[list[Td]]:
    for c in cells:
        values = (c.benchmark, c.metric, c.value, c.low, c.high, c.n, c.undecided, c.truncated)
        yield [_run(c.run, names), *(Td.of(value) for value in (*values, c.protocol, c.protocol_hash))]


def _run(run: str, names: Names) -> Td:
    return Td(names.html(run), run)
