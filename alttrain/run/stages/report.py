"""Stage report: from all run folders, write the files of report/ and show tables.

- metrics.csv, comparisons.csv  every number; every run against the No-train run of its backbone, prompt by prompt
- structure.csv                 the assessment as a classifier, and the causes of wrong answers
- structure_agreement.csv       how far judges of structure and the offline parser agree
- categories.csv                attack success and over-refusal by category
- tokens.csv                    tokens of a query by outcome
- thoughts.csv                  whether thought and answer agree
- interventions.csv             each run with an intervention against the same run without it
- decided.csv                   where in the thought an outcome is decided
- probes.csv                    what alttrain-probe found in the hidden states of runs
- tables/, figures/             aggregated over seeds
- page.html                     everything but training times, and the samples, in one file

A trained run's model card is rewritten if its results changed. The report is made in a temporary folder, and its files
are moved to report/ when it is complete (`report.output`). A failed report does not fail the run.
"""

import gc
import hashlib
import json
import logging
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import pandas as pd

from alttrain import __version__
from alttrain import report as report_package
from alttrain.config import RunError
from alttrain.records import DamagedError, Texts, exclusive, json_or_none, write_text
from alttrain.report.card import rewrite_card
from alttrain.report.evaluation import Evaluation
from alttrain.report.figures import draw_all
from alttrain.report.formats import console, latex, markdown
from alttrain.report.output import STAMP, file_states, files, inputs, put, temporary_folder
from alttrain.report.page import write_page
from alttrain.report.results import evaluations, leave_out, read_csv, write_csv
from alttrain.report.tables import CELLS, TABLES, add_marks, report_of
from alttrain.run.assembly import Run
from alttrain.run.progress import print_whole
from alttrain.run.session import Session

log = logging.getLogger(__name__)

AGAIN = 20  # how often a report is begun again because a run or evaluation was written to meanwhile
SHOWN = ("overview", "interventions")  # the tables that the console shows, if there are any
IF_ANY = ("interventions", "decided", "thoughts", "probes", "structure_agreement")
"""CSV files that are only written with a row."""


class _Stamp(TypedDict):
    """The contents of .stamp: the digest of the inputs of the last report, and its files with their `file_states`."""

    digest: str
    files: dict[str, tuple[int, int, int]]


def report(run: Run, session: Session) -> None:
    """Write the report over all runs of the output folder.

    If it cannot be made, this raises RunError in a run with no stages but check and report, and logs a warning in
    others.
    """
    make_report = write_report if {*run.stages} <= {"check", "report"} else _try_report
    make_report(run.output_dir, run.config["page_texts"])


def _try_report(output_dir: Path, texts: Texts) -> pd.DataFrame | None:
    """Return the tables of a report; None, with a warning, if the report cannot be made."""
    try:
        return write_report(output_dir, texts)
    except RunError as error:
        log.warning("report    %s; the runs are not touched, 'stages=[report]' makes it anew", error)
        return None


def write_report(output_dir: Path, texts: Texts = "all") -> pd.DataFrame:
    """Write the report's files, unless nothing changed since the last report.

    Returns the console's tables, one after the other; no row if no run was judged. `texts` selects the samples whose
    prompts and outputs the page contains. Raises RunError if no report can be made; the last one is kept.
    """
    runs, folder = output_dir / "runs", output_dir / "report"
    try:
        if not next(runs.glob("*/evaluation/*/metrics.json"), None):
            return pd.DataFrame()
        with exclusive(folder):
            digest = _digest(runs, texts)
            stamp = json_or_none(folder / STAMP, _Stamp) or {"digest": "", "files": {}}
            last = stamp["files"]
            now = file_states(folder, last) if {*last} <= files(folder) else {}  # looks only at files below `folder`
            if stamp["digest"] != digest or {name: list(state) for name, state in now.items()} != last:
                with rare_collections(), temporary_folder(folder) as temporary:
                    if not _make(output_dir, temporary, texts, digest, {*last}):
                        return pd.DataFrame()
            paths = [folder / "tables" / f"{name}.csv" for name in SHOWN]
            shown = [add_marks(read_csv(path)) for path in paths if path.exists()]
            return pd.concat(shown, ignore_index=True) if shown else pd.DataFrame()
    except Exception as error:  # texts, names and files may come from anybody, and cause any error
        log.debug("%s", traceback.format_exc())
        raise RunError(f"no report was made: {error or type(error).__name__}") from error


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage rarely. A report's data stays in use, and the default frequency took a sixth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _make(output_dir: Path, temporary: Path, texts: Texts, digest: str, last_files: set[str]) -> bool:
    """Make the report in a temporary folder, then let it replace the last one, whose files are `last_files`.

    Returns False if no run is left to report; the last report is kept.

    Runs go on meanwhile. Rows are checked against metrics.json each time they are read. If they differ since a run's
    files were replaced, the report is begun again. A run with a damaged file is logged and left out, also its card.
    """
    runs, folder, new_folder = output_dir / "runs", output_dir / "report", temporary / "report"
    left_out, repeats = set[Path](), Counter[Path]()
    while True:
        before = inputs(runs)
        new_folder.mkdir()
        try:
            if not (judged := evaluations(runs, left_out)):
                return False
            _write(temporary, texts, judged)
            break
        except DamagedError as error:
            shutil.rmtree(new_folder)
            folders = (path for path in error.path.parents if path in before)  # an evaluation's, then a run's
            damaged = next(folders, error.path.parent)
            repeats[damaged] += 1
            if inputs(runs).get(damaged) == before.get(damaged) or repeats[damaged] > AGAIN:
                leave_out(runs / damaged.relative_to(runs).parts[0], error, left_out)
        except (OSError, ValueError) as error:
            raise ValueError(str(error).replace(str(temporary), str(output_dir))) from error
    stamp = {"digest": digest, "files": file_states(new_folder, sorted(files(new_folder)))}
    write_text(new_folder / STAMP, json.dumps(stamp))
    put(new_folder, folder, last_files)
    for run in sorted({record.parent for record in runs.glob("*/run.json")} - left_out):
        try:
            rewrite_card(run)
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.warning("report    the model card of %s is not made anew: %s", run.name, error)
    return True


def _digest(runs: Path, texts: str) -> str:
    """Return a hash of the inputs, by names, sizes and times of the runs' files and of the report's code."""
    digest = hashlib.sha256(f"{__version__} {texts}\n".encode())
    for folder, state in inputs(runs).items():
        digest.update(f"{folder} {state}\n".encode())
    for path in sorted(Path(report_package.__file__).parent.rglob("*.*")):
        if path.suffix != ".pyc":
            digest.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _write(output_dir: Path, texts: Texts, judged: list[Evaluation]) -> None:
    """Write all files of a report for these benchmarks."""
    folder, contents = output_dir / "report", report_of(judged)
    frames = {name: frame for name, frame in contents.frames.items() if name not in IF_ANY or len(frame)}
    frames |= {f"tables/{name}": cells[CELLS] for name, cells in contents.tables.items()}
    with draw_all(contents.tables, contents.variants, contents.frames, folder / "figures") as draw:
        for name, frame in frames.items():
            write_csv(folder / f"{name}.csv", frame)
        for name, cells in contents.tables.items():
            write_text(folder / f"tables/{name}.md", markdown(TABLES[name], cells))
            write_text(folder / f"tables/{name}.tex", latex(TABLES[name], cells))
        write_page(output_dir, texts, contents, draw)


def show(output_dir: Path, texts: Texts = "all") -> bool:
    """Print the tables of all runs and of interventions on the console. Returns False if no report can be made."""
    table = _try_report(output_dir, texts)
    if table is None:
        return False
    if not len(table):
        log.info("report    no judged run in %s", output_dir / "runs")
        return True
    for name, cells in table.groupby("table", sort=False):
        for part in console("runs" if name == "overview" else str(name), cells):
            print_whole(part)
    log.info("report    %s", output_dir / "report")
    return True
