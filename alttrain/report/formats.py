"""A table as Markdown, as LaTeX and for the console, with its legend. All print the cells of `tables.pivot`."""

import math
from collections.abc import Iterable, Iterator
from importlib import resources
from textwrap import wrap
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from alttrain.evaluation.statistics import POWER
from alttrain.report import measures
from alttrain.report.escaping import MARKDOWN_CELL, escape_markdown, latex_text, one_line
from alttrain.report.measures import MEASURES, WORTH_SAYING, base_measure, corrected, format_value
from alttrain.report.published import WHY
from alttrain.report.tables import pivot
from alttrain.report.variants import SEVERAL

DIFFERS, FEW, COVERED, NOT_COVERED, MISSING = "*", "†", "✓", "✗", "–"
NARROW, TITLE, WIDE = 9, 16, 19
"""Line width in characters: of a heading on the console, of a row's label on the console, of a heading in LaTeX."""
STAR = "differs from No-train (5 %, Holm over the report's contrasts)"
EFFECT = (
    "differs from no intervention on the prompts of both (5 %, Holm over all interventions); a rate without an "
    "intervention may be over more prompts, and interventions.csv has the pairs."
)
ONE_SEED = "with one seed these weights differ, not yet the methods: other seeds were not tried (exact paired test)"
SEVERAL_SEEDS = "with several seeds the methods differ: the test allows for other seeds and other prompts"
TOO_FEW = (
    f"{FEW} not enough data: were the true difference as small as this one, a paired test of as many prompts and "
    f"seeds (5 %, before Holm) would miss it in more than {100 * (1 - POWER):.0f} % of cases."
)
MANY = f"undecided, truncated: texts without a verdict, and cut by the token cap, where over {100 * WORTH_SAYING:g} %."
KAPPA = (
    "agreement: Cohen's kappa with its 95 % interval, over the texts that both judges decided; undefined if both judge "
    "all of them alike."
)
BY_LABELS = (
    "corrected: the share of all texts, undecided ones too, as people judge them, estimated from the judge's verdicts "
    "and the n texts that people labelled; undefined if no text with a verdict of one kind has a label."
)
SEEDS_APART = (
    "Agreements, corrected rates and what thoughts recognise are, of several seeds, the means of the seeds' values and "
    "of their bounds; these do not allow for other seeds."
)
VERSIONS = (
    "of several versions: other weights of the judge, or another model at its server, judged some runs of the column. "
    "Part of a difference may be the judge's; `served` in metrics.json says which judged a run."
)
FAILED = (
    "answered: of the harmful prompts with a verdict, those that were answered; refused: likewise of the harmless.",
    "misjudged: the assessment was wrong; disobeyed: it was right and not acted on; unassessed: there was none.",
)
FIGURES = "published: reported for this method, unmodified, this protocol and these sets"
SOURCES = "alttrain/report/published.csv has each figure's source, and what is known of how it was made."
PACKAGES = "% \\usepackage{booktabs,graphicx,pifont}"
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Begins a box that is scaled down to the width of the line, or of the column, if it is wider."""


def cell_lines(cell: Any, why: bool = False) -> list[str]:
    """A cell's lines: number, interval, n, notes, and the published figure.

    With `why`, a cell without a published figure has the mark of the reason instead.
    """
    texts = [MISSING] if cell.missing else []
    if cell.known:
        marks = (DIFFERS if cell.differs else "") + (FEW if cell.few else "")
        texts.append(format_value(cell.value, cell.unit) + marks)
        if not math.isnan(cell.low):
            texts.append(f"{format_value(cell.low, cell.unit)}–{format_value(cell.high, cell.unit)}")
        if cell.n:
            texts += [f"n={cell.n}", *([f"{cell.seeds} seeds"] if cell.seeds > 1 else [])]
    texts += cell.notes
    if not math.isnan(cell.published):
        mark = {True: f" {COVERED}", False: f" {NOT_COVERED}", None: ""}[cell.covered]
        texts.append(f"published {format_value(cell.published, cell.unit)}{mark}")
    elif why and cell.known and cell.published_why:
        texts[-1] += f" {WHY[cell.published_why][0]}"
    return texts


def star_meaning(seeds: Iterable[int]) -> str:
    """The meaning of a star, for differences over these numbers of seeds."""
    numbers = set(seeds)
    meanings = [ONE_SEED] if min(numbers) == 1 else []
    meanings += [SEVERAL_SEEDS] if max(numbers) > 1 else []
    return f"{STAR}: {'; '.join(meanings)}."


def legend(frame: pd.DataFrame) -> list[str]:
    """The lines below a table: its marks, the sets of its means, the structure, and notes on the published figures."""
    return [*marks_legend(frame), *_sets(frame), *_structure(frame), *_published(frame)]


def marks_legend(frame: pd.DataFrame) -> list[str]:
    directions = {MEASURES[base_measure(measure)].better for measure in frame.measure.unique()}
    units = "Means with their 95 % interval"
    if frame.low.isna().all():
        units = "Shares in percent"
    elif (frame.unit == "share").any():
        units = "Percent with its 95 % interval, and the n texts it is over"
    units += "; ↓ lower is better" if -1 in directions else ""
    units += "; ↑ higher is better." if 1 in directions else "."
    of_interventions = frame.table.iloc[0] == "interventions"
    star = EFFECT if of_interventions or not frame.differs.any() else star_meaning(frame.seeds[frame.differs])
    by_seed = frame.measure.map(lambda name: base_measure(name) in ("kappa", *measures.RECOGNISING) or corrected(name))
    explanations = (
        (True, units),
        (((frame.seeds > 1) & ~by_seed).any(), "Of several seeds the interval allows for other seeds, too."),
        (((frame.seeds > 1) & by_seed).any(), SEEDS_APART),
        (frame.best.any(), "Bold: best of its backbone in the column."),
        (frame.differs.any(), f"{DIFFERS} {star}"),
        (frame.few.any(), TOO_FEW),
        (frame.notes.any(), MANY),
        ((frame.measure == "kappa").any(), KAPPA),
        (frame.judge.str.contains(SEVERAL, regex=False).any(), VERSIONS),
        (frame.measure.map(corrected).any(), BY_LABELS),
        (frame.missing.any(), f"{MISSING} no number: not measured, or no text that it could be of."),
    )
    return [line for applies, line in explanations if applies]


def _sets(frame: pd.DataFrame) -> list[str]:
    """Lists the benchmarks of means and pools, and what their evaluation changed."""
    means, changed = frame[frame.kind == "mean"], frame[(frame.evaluated != "") & (frame.kind != "pool")]
    judges = {judge: f", by {judge}" if " + " in judge else "" for judge in frame.judge.unique()}  # else in the heading
    notes = [
        f"Mean of {MEASURES[row.measure].label}: {row.benchmark}{judges[row.judge]}." for row in means.itertuples()
    ]
    for row in changed.itertuples():
        notes.append(f"Evaluated otherwise than protocol {row.protocol} says: {row.evaluated}.")
    if (frame.lacking != "").any():
        notes.append("without: the sets that a row lacks, and so has no mean.")
    for (_, benchmark), cells in frame[frame.kind == "pool"].groupby(["protocol", "benchmark"], sort=False):
        names = cells.called.unique()
        subject = ", ".join(names).capitalize() if len(names) <= 3 else "These rates"
        judged = (f"Judged by {judge}." for judge in cells.judge if " + " in judge)
        notes += [f"{subject}: over all prompts of {benchmark}.", *judged]
    return list(dict.fromkeys(notes))


def _structure(frame: pd.DataFrame) -> list[str]:
    """Explains the causes of failures, and states how often the parser agrees with human labels.

    The figures are from parser_error.csv, which scripts/measure_parser.py writes.
    """
    notes = list(FAILED) if frame.measure.isin(measures.FAILURES).any() else []
    if frame.measure.isin(measures.ASSESSING).any():
        with resources.as_file(resources.files("alttrain.report") / "parser_error.csv") as path:
            errors = pd.read_csv(path).groupby(["thoughts", "measured"], sort=False)
        for (thoughts, measured), fields in errors:
            counts = "; ".join(f"{row.field} {row.right} of {row.n}" for row in fields.itertuples())
            notes.append(f"Read by the parser as people read it, {thoughts} ({measured}): {counts}.")
    return notes


def _published(frame: pd.DataFrame) -> list[str]:
    """Explains the published figures, or why they are not shown."""
    notes = []
    if frame.table.iloc[0] == "published":
        sources = {(cell.protocol, cell.source.partition(",")[0]): None for cell in frame.itertuples() if cell.source}
        notes += [f"Protocol {protocol}: {source}." for protocol, source in sources]
        notes.append("The CSV has each figure's source, and what is known of how it was made.")
    elif frame.published.notna().any():
        covers = f"; {COVERED} our interval covers it, {NOT_COVERED} it does not" if frame.covered.notna().any() else ""
        notes.append(f"{FIGURES}{covers}. {SOURCES}")
    reasons = [" ".join(WHY[why]) for why in WHY if (frame.known & (frame.published_why == why)).any()]
    return [*notes, *([f"No published figure: {'; '.join(reasons)}."] if reasons else [])]


def _parts(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(protocol, grid) of each part; the name is "" if it need not be printed."""
    several_protocols = frame.protocol.nunique() > 1
    for protocol, part in frame.groupby("protocol", sort=False):
        yield str(protocol) if several_protocols or protocol not in ("", measures.OFFLINE) else "", pivot(part)


def markdown(title: str, frame: pd.DataFrame) -> str:
    """The table as a Markdown document with one section per protocol."""
    parts = [f"# {escape_markdown(title)}"]
    for protocol, grid in _parts(frame):
        names = grid.index.to_frame(index=False).map(escape_markdown)
        cells = grid.map(_markdown_cell, na_action="ignore").fillna("").to_numpy()
        heads = [*names.columns, *(escape_markdown(" ".join(heading)) for heading in grid.columns)]
        rows = [heads, ["---"] * len(heads)]
        rows += [[*name, *row] for name, row in zip(names.to_numpy(), cells, strict=True)]
        section = [f"## Protocol {escape_markdown(protocol)}", ""] if protocol else []
        parts.append("\n".join([*section, *("| " + " | ".join(row) + " |" for row in rows)]))
    parts.append("\n".join(f"- {escape_markdown(line)}" for line in legend(frame)))
    return "\n\n".join(parts) + "\n"


def _markdown_cell(cell: Any) -> str:
    texts = cell_lines(cell, why=True)
    if cell.known:
        value, first = format_value(cell.value, cell.unit), texts[0].replace(DIFFERS, f"\\{DIFFERS}")
        texts[0] = (f"**{value}**" if cell.best else value) + first.removeprefix(value)
    return MARKDOWN_CELL.sub(r"\\\g<0>", one_line(" ".join(texts)))


def latex(title: str, frame: pd.DataFrame) -> str:
    r"""The table for \input: one tabular per protocol, no wider than the line, and the legend below.

    It belongs in a paragraph or in a table environment of the paper, which adds the caption. A comment names the
    packages that it needs. It defines no macros.
    """
    parts = [f"% {one_line(title)}", PACKAGES]
    for protocol, grid in _parts(frame):
        parts += [rf"\par\medskip\noindent\textbf{{Protocol {latex_text(protocol)}}}\par\smallskip"] if protocol else []
        parts.append("\\noindent" + FITTED + "\n" + _tabular(grid) + "}")
    parts.append(r"\par\smallskip\noindent\parbox{\linewidth}{\footnotesize\raggedright")
    parts.append("\n".join(latex_text(line).replace(r" \%", r"~\%") + r"\par" for line in legend(frame)) + "}\\par")
    return "\n".join(parts) + "\n"


def _tabular(grid: pd.DataFrame) -> str:
    """One tabular. A backbone is named in its first row only."""
    cells = grid.map(_latex_cell, na_action="ignore").fillna("")
    cells.columns = [
        _stacked([latex_text(part) for line in heading for part in _broken(line, WIDE, "_ ")])
        for heading in grid.columns
    ]
    backbones, methods = (grid.index.get_level_values(level) for level in ("backbone", "method"))
    cells.insert(0, "method", list(map(latex_text, methods)))
    cells.insert(0, "backbone", list(map(latex_text, backbones.where(~backbones.duplicated(), ""))))
    form = "ll" + "r" * (len(cells.columns) - 2)
    tabular: str = cells.reset_index(drop=True).style.hide(axis="index").to_latex(column_format=form, hrules=True)
    return tabular.replace(" \\\\\n", " \\\\ \\addlinespace[3pt]\n").rstrip()


def _broken(line: str, width: int, underscore: str) -> list[str]:
    """A line broken at blanks and underscores. `underscore` replaces the latter: " ", or "_ " to keep it."""
    spaced = one_line(line).replace("_", underscore)
    return [part.replace("_ ", "_") for part in wrap(spaced, width, break_long_words=False)]


def _latex_cell(cell: Any) -> str:
    first, *rest = cell_lines(cell, why=True) or [""]
    value = format_value(cell.value, cell.unit)
    bold = rf"\textbf{{{latex_text(value)}}}{latex_text(first.removeprefix(value))}"
    return _stacked([bold if cell.best else latex_text(first), *(rf"\scriptsize {latex_text(line)}" for line in rest)])


def _stacked(texts: list[str]) -> str:
    inner = r" \\ ".join(texts)
    return inner if len(texts) == 1 else rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{inner}\end{{tabular}}"


def console(title: str, frame: pd.DataFrame) -> list[Table | Text]:
    """The table for the console, one part per protocol, with its marks. Without frames, to fit 80 columns."""
    parts: list[Table | Text] = []
    for protocol, grid in _parts(frame):
        by_backbone = list(grid.groupby(level="backbone", sort=False))
        name = title if len(by_backbone) > 1 else f"{title} of {by_backbone[0][0]}"
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.title = f"{name}, protocol {protocol}" if protocol else name
        for index, heading in enumerate([("method",), *grid.columns]):
            short = [part for line in heading for part in _broken(line, NARROW, " ")]
            table.add_column("\n".join(short), justify="right" if index else "left", no_wrap=True)
        for backbone, rows in by_backbone:
            if len(by_backbone) > 1:
                table.add_row(Text(str(backbone), style="italic"))
            for (_, method), *cells in rows.itertuples():
                table.add_row("\n".join(_broken(method, TITLE, " ")), *map(_console_cell, cells))
                table.add_section()
        parts.append(table)
    return [*parts, Text("\n".join(marks_legend(frame)), style="dim")]


def _console_cell(cell: Any) -> Text:
    """A cell's lines; only the number if the cell is over several benchmarks."""
    text = Text()
    for index, line in enumerate(cell_lines(cell)[:1] if cell.kind == "pool" else cell_lines(cell)):
        for word in ("truncated", "undecided", "published"):
            line = line.replace(f"{word} ", f"{word}\n")
        text.append(("\n" if index else "") + line, style="bold" if cell.best and index == 0 else "")
    return text
