"""Stage report: every run folder -> the files of report/, and the table shown.

- metrics.csv      every number, tidy
- comparisons.csv  every run against its backbone's No-train run, prompt by prompt
- structure.csv    the assessment as a classifier, and why answers went wrong
- table.md         the table; safety.png: harmful rate against over-refusal
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement

from alttrain import __version__
from alttrain.records import write_text
from alttrain.report import (
    Cell,
    Compared,
    Evaluation,
    Structure,
    cells_of,
    comparisons,
    console_table,
    draw,
    evaluations,
    markdown_table,
    read_csv,
    structures,
    write_csv,
)
from alttrain.run.assembly import Run
from alttrain.run.session import Session

log = logging.getLogger(__name__)

WIDEST = 10_000
"""Columns a table may take."""


def report(run: Run, session: Session) -> None:
    """Write the report over all runs of the output folder."""
    write_report(run.output_dir)


@dataclass(frozen=True)
class Report:
    """What a report shows: all numbers, and which of them differ from the No-train run's."""

    cells: list[Cell]
    compared: list[Compared]


def write_report(output_dir: Path) -> Report:
    """Write the report's files; comparisons and figure are made anew only where the numbers changed."""
    judged = evaluations(output_dir / "runs")
    folder = output_dir / "report"
    if not judged:
        return Report([], [])
    cells = cells_of(judged)
    write_csv(folder / "metrics.csv", Cell, cells)
    stamp, digest = folder / ".stamp", _digest(judged)
    if stamp.exists() and stamp.read_text() == digest:
        compared = read_csv(folder / "comparisons.csv", Compared)
    else:
        compared = comparisons(judged)
        write_csv(folder / "comparisons.csv", Compared, compared)
        write_csv(folder / "structure.csv", Structure, structures(judged))
        draw(cells, folder / "safety.png")
        write_text(stamp, digest)
    write_text(folder / "table.md", markdown_table(cells, compared))
    return Report(cells, compared)


def _digest(judged: Sequence[Evaluation]) -> str:
    """What tells these evaluations from any others: their metrics, and when their judgements were written."""
    digest = hashlib.sha256(__version__.encode())
    for one in judged:
        digest.update((one.folder / "metrics.json").read_bytes())
        rows = one.folder / "judgements.jsonl"
        if rows.exists():
            digest.update(f"{rows} {rows.stat().st_size} {rows.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def show(output_dir: Path) -> None:
    """Print the table of all runs on the console."""
    found = write_report(output_dir)
    if not found.cells:
        log.info("report    no judged run in %s", output_dir / "runs")
        return
    console, table = Console(), console_table(found.cells, found.compared)
    # a console that is too narrow folds the lines: rich would drop columns
    needed = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    console.width = max(console.width, needed)
    console.print(table, crop=False)
    log.info("report    %s", output_dir / "report")
