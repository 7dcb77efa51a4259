"""Stage report: every run folder -> report/metrics.csv, report/table.md and report/safety.png, and the table shown."""

import hashlib
import logging
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement

from alttrain.records import write_text
from alttrain.report import Cell, collect, console_table, draw, markdown_table, write_csv
from alttrain.run.assembly import Run
from alttrain.run.session import Session

log = logging.getLogger(__name__)

WIDEST = 10_000
"""Columns a table may take."""


def report(run: Run, session: Session) -> None:
    """Write the report over all runs of the output folder."""
    write_report(run.output_dir)


def write_report(output_dir: Path) -> list[Cell]:
    """Write the report's files; the figure is drawn anew only where the numbers changed. Returns the cells."""
    cells = collect(output_dir / "runs")
    folder = output_dir / "report"
    if cells:
        write_csv(folder / "metrics.csv", cells)
        write_text(folder / "table.md", markdown_table(cells))
        digest = hashlib.sha256((folder / "metrics.csv").read_bytes()).hexdigest()
        stamp = folder / ".safety.sha256"
        if not (folder / "safety.png").exists() or not stamp.exists() or stamp.read_text() != digest:
            draw(cells, folder / "safety.png")
            write_text(stamp, digest)
    return cells


def show(output_dir: Path) -> None:
    """Print the table of all runs on the console."""
    cells = write_report(output_dir)
    if not cells:
        log.info("report    no judged run in %s", output_dir / "runs")
        return
    console, table = Console(), console_table(cells)
    # a console that is too narrow folds the lines: rich would drop columns
    needed = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    console.width = max(console.width, needed)
    console.print(table, crop=False)
    log.info("report    %s", output_dir / "report")
