"""What a run prints and logs: texts and tables, lines on the console and in run.log, and the progress of long work.

Progress is a bar on a terminal, else a line every minute, and a note for `alttrain-status`. Parallel jobs print lines
behind their names, since each bar would overwrite the others.
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from alttrain.config.secrets import mask_secrets, visible
from hydra_plugins.alttrain_jobs import is_worker

log = logging.getLogger(__name__)

LINE_S, NOTE_S = 60.0, 5.0  # seconds between two lines, and between two notes
WIDEST = 10_000  # maximum width of a printed table, in characters
listeners: list[Callable[[str], None]] = []  # they take the notes: the status of the present run


@contextmanager
def bar(label: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Show progress through `total` steps, of which `done` were made before. The time left counts only new ones.

    Yields what advances it by a number of steps, with a note such as the loss.
    """
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    terminal, began, reached = sys.stderr.isatty() and not is_worker(), time.monotonic(), done
    last_line = last_note = began
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as progress:
        task = progress.add_task(label, total=total, completed=done)

        def advance(count: int, note: str = "", /) -> None:
            nonlocal reached, last_line, last_note
            reached, now = reached + count, time.monotonic()
            progress.update(task, advance=count, description=f"{label} {note}".strip())
            seconds_left = (total - reached) * (now - began) / max(reached - done, 1)
            line = ", ".join(filter(None, (f"{label} {reached} of {total}", note, f"{duration(seconds_left)} left")))
            if now - last_note > NOTE_S:
                last_note = now
                for listener in listeners:
                    listener(line)
            if now - last_line > LINE_S and not terminal:
                last_line = now
                log.info("          %s", line)

        yield advance


def duration(seconds: float) -> str:
    """Return a time in one or two units, such as "2 h 05 min" or "40 s"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def log_to_console(label: str = "") -> None:
    """Show alttrain's lines and the warnings of libraries on the console, each behind a label."""
    root = logging.getLogger()
    console = next((handler for handler in root.handlers if handler.name == "console"), None)
    if console is None:
        console = logging.StreamHandler(sys.stderr)
        console.name = "console"
        console.setLevel(logging.INFO)
        root.handlers = [console]
        root.setLevel(logging.WARNING)  # of libraries, show only warnings and errors
        logging.getLogger("alttrain").setLevel(logging.DEBUG)
    console.setFormatter(_Visible(f"{label.replace('%', '%%')}%(message)s"))


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def print_texts(console: Console, texts: Iterable[Text]) -> None:
    """Print texts that may be a model's or a stranger's."""
    for text in texts:
        text.plain = visible(text.plain)
        console.print(text)


def print_whole(part: Table | Text) -> None:
    """Print a table or the text below it. Of a table, a narrow console wraps lines: rich would drop columns."""
    console = Console(markup=False, emoji=False)  # names are free text
    if isinstance(part, Table):
        needed = Measurement.get(console, console.options.update(max_width=WIDEST), part).maximum
        console.width = max(console.width, needed)
    console.print(part, crop=False)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append all lines to the run's log, and the traceback of an error that ends the run."""
    handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except Exception:
        log.debug("%s", mask_secrets(traceback.format_exc()))
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):  # closing flushes the buffer, which fails again
            handler.close()


class _RunLog(logging.FileHandler):
    """A handler that removes itself, with one warning, when it cannot write, as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if not isinstance(error := sys.exc_info()[1], OSError):
            super().handleError(record)
            return
        root = logging.getLogger()
        root.handlers = [handler for handler in root.handlers if handler is not self]
        log.warning("this is not logged any more in %s: %s", self.baseFilename, error)
