"""Progress of long work: a bar on a terminal, else a line every minute, and a note for `alttrain-status`.

Parallel jobs print lines, since each bar would overwrite the others.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from hydra_plugins.alttrain_jobs import beside_others

log = logging.getLogger(__name__)

LINE_S, NOTE_S = 60.0, 5.0  # seconds between two lines, and between two notes
listeners: list[Callable[[str], None]] = []  # what takes the notes: the status of the run in work


class Advance(Protocol):
    """Advances a progress bar by a number of steps. `note` says more, such as the loss."""

    def __call__(self, count: int, note: str = "", /) -> None: ...


@contextmanager
def bar(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show progress through `total` steps, of which `done` were made before. The time left counts only new ones."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    terminal, began, now_done = sys.stderr.isatty() and not beside_others(), time.monotonic(), done
    lined = noted = began
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as shown:
        task = shown.add_task(label, total=total, completed=done)

        def advance(count: int, note: str = "", /) -> None:
            nonlocal now_done, lined, noted
            now_done, now = now_done + count, time.monotonic()
            shown.update(task, advance=count, description=f"{label} {note}".strip())
            left = (total - now_done) * (now - began) / max(now_done - done, 1)
            line = ", ".join(filter(None, (f"{label} {now_done} of {total}", note, f"{duration(left)} left")))
            if now - noted > NOTE_S:
                noted = now
                for listener in listeners:
                    listener(line)
            if now - lined > LINE_S and not terminal:
                lined = now
                log.info("          %s", line)

        yield advance


def duration(seconds: float) -> str:
    """Return a time in one or two units, such as "2 h 05 min" or "40 s"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
