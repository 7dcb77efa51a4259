"""Stage report: every run folder -> the files of report/, and the table shown.

- metrics.csv      every number, tidy
- comparisons.csv  every run against its backbone's No-train run, prompt by prompt
- structure.csv    the assessment as a classifier, and why answers went wrong
- table.md         a row a run, seed by seed
- tables/          over the seeds, each as Markdown, LaTeX and CSV
- figures/         each as PNG and SVG
- page.html        all of it and every sample, in one file

A trained run's model card is written anew where its results changed it.
"""

import gc
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from alttrain import __version__
from alttrain import report as room
from alttrain.records import DamagedError, Texts, kept_json, write_text
from alttrain.report import (
    TITLES,
    Cell,
    Compared,
    Entry,
    Evaluation,
    Structure,
    cells_of,
    comparisons,
    console,
    evaluations,
    latex,
    markdown,
    markdown_table,
    read_csv,
    rewrite_card,
    structures,
    tables,
    variants,
    write_csv,
)
from alttrain.report.runs import tell_left_out
from alttrain.run.assembly import Run
from alttrain.run.session import Session

log = logging.getLogger(__name__)

WIDEST = 10_000
"""Columns a table may take."""
OBJECTS = 100_000
"""New objects after which Python looks for garbage while a report is made."""
SHOWN = "overview"
"""The table for the console."""
OF_RUN = ("run.json", "train.json", "rewrite.json", "fingerprint.json", "logs/metrics.csv")
OF_BENCHMARK = ("metrics.json", "judgements.jsonl", "generations.jsonl", "adherence.jsonl")
"""The files a report is made from."""


class _Stamp(TypedDict):
    """.stamp: what the last report was made from, and its files."""

    digest: str
    files: list[str]


def report(run: Run, session: Session) -> None:
    """Write the report over all runs of the output folder."""
    write_report(run.output_dir, run.config["page_texts"])


def write_report(output_dir: Path, texts: Texts = "all") -> list[Entry]:
    """Write the report's files, unless they are there and nothing changed since; the table for the console.

    `texts` says whose prompts and outputs the page holds.
    """
    runs, folder = output_dir / "runs", output_dir / "report"
    if not next(runs.glob("*/evaluation/*/metrics.json"), None):
        return []
    stamp, digest = folder / ".stamp", _digest(runs, texts)
    before = _stamped(stamp)
    files: list[str] = before.get("files", [])
    if before.get("digest") != digest or not all((folder / name).exists() for name in files):
        stamp.unlink(missing_ok=True)  # what is cut off is made anew
        with _rare_collections():
            made, tried = _written(output_dir, texts)
        for stale in {*files, *tried} - {*made}:
            (folder / stale).unlink(missing_ok=True)
        write_text(stamp, json.dumps({"digest": digest, "files": made}))
    shown = folder / "tables" / f"{SHOWN}.csv"
    return read_csv(shown, Entry) if shown.exists() else []


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for garbage rarely: what is read stays until it is used, and looking through it took a sixth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _stamped(stamp: Path) -> Mapping[str, Any]:
    """What the last report was made from, and its files; nothing where there is none, or an older version's."""
    return kept_json(stamp, _Stamp) or {}


def _digest(runs: Path, texts: str) -> str:
    """What tells these runs and this code from any others: the files' names, sizes and times."""
    digest = hashlib.sha256(f"{__version__} {texts}\n".encode())
    for path in (*_inputs(runs), *sorted(Path(room.__file__).parent.rglob("*.*"))):
        if path.exists() and path.suffix != ".pyc":
            state = path.stat()
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _inputs(runs: Path) -> Iterator[Path]:
    for record in sorted(runs.glob("*/run.json")):
        yield from (record.parent / name for name in OF_RUN)
        for judged in sorted(record.parent.glob("evaluation/*/metrics.json")):
            yield from (judged.parent / name for name in OF_BENCHMARK)


def _written(output_dir: Path, texts: Texts) -> tuple[list[str], list[str]]:
    """Make everything: the files that were written, and those of attempts that a damaged file ended.

    A run with a damaged file is named and left out, whichever of its files it is and whoever finds it.
    """
    runs, left_out, tried = output_dir / "runs", set[Path](), list[str]()
    while True:
        made: list[str] = []
        try:
            for path in _write(output_dir, texts, evaluations(runs, left_out)):
                made.append(path.relative_to(output_dir / "report").as_posix())
            return made, tried
        except DamagedError as error:
            run = runs / error.path.relative_to(runs).parts[0]
            tell_left_out(run, error)
            left_out.add(run)
            tried += made


def _write(output_dir: Path, texts: Texts, judged: list[Evaluation]) -> Iterator[Path]:
    """Make everything of these benchmarks; the files that were written."""
    folder = output_dir / "report"
    for run in dict.fromkeys(one.folder.parent.parent for one in judged):
        try:
            rewrite_card(run)
        except OSError as error:
            log.warning("report    the card of %s stays as it is: %s", run.name, error)
    cells, grouped = cells_of(judged), variants(judged)
    compared, contrasts = comparisons(grouped)
    write_csv(folder / "metrics.csv", Cell, cells)
    write_csv(folder / "comparisons.csv", Compared, compared)
    write_csv(folder / "structure.csv", Structure, structures(judged))
    write_text(folder / "table.md", markdown_table(cells, compared))
    yield from (folder / name for name in ("metrics.csv", "comparisons.csv", "structure.csv", "table.md"))
    found = tables(grouped, contrasts)
    for name, entries in found.items():
        path = folder / "tables" / name
        write_csv(path.with_suffix(".csv"), Entry, entries)
        write_text(path.with_suffix(".md"), markdown(TITLES[name], entries))
        write_text(path.with_suffix(".tex"), latex(TITLES[name], entries))
        yield from (path.with_suffix(form) for form in (".csv", ".md", ".tex"))
    from alttrain.report.figures import draw_all
    from alttrain.report.page import write_page

    yield from draw_all(found, grouped, folder / "figures")
    if page := write_page(output_dir, texts, made=(judged, compared, found)):
        yield page


def show(output_dir: Path, texts: Texts = "all") -> None:
    """Print the table of all runs on the console."""
    found = write_report(output_dir, texts)
    if not found:
        log.info("report    no judged run in %s", output_dir / "runs")
        return
    for part in console("runs", found):
        screen = Console()
        if isinstance(part, Table):
            # a console that is too narrow folds the lines: rich would drop columns
            needed = Measurement.get(screen, screen.options.update(max_width=WIDEST), part).maximum
            screen.width = max(screen.width, needed)
        screen.print(part, crop=False)
    log.info("report    %s", output_dir / "report")
