"""The state of runs: status.json and the lock in each folder, and the console script that shows them all.

    alttrain-status [OUTPUT_DIR] [--watch SECONDS]

status.json holds state (running, done or failed), stage, process, host, when it began and changed, and the last line of
the error. A run that says it is running while nobody holds its lock was killed: it is shown as stopped. A run is
pending when a sweep planned it and nobody began it, or has another evaluation of it to make; the plan is in
OUTPUT_DIR/.sweep/plan.json.
"""

import argparse
import json
import logging
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypedDict

import msgspec
from filelock import FileLock, Timeout
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alttrain.config import RunError
from alttrain.records import DamagedError, clear_unfinished, kept_json, read_json, write_json
from alttrain.report.escaping import one_line

log = logging.getLogger(__name__)

State = Literal["running", "done", "failed", "stopped", "pending"]
COLOURS: dict[State, str] = {
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "stopped": "yellow",
    "pending": "dim",
}
PROBED_S = 0.5
"""A view of the states holds the lock of a run that was killed for less than this."""
PLAN = Path(".sweep") / "plan.json"
ENDED = Path(".sweep") / "ended"
"""A file for each job of the last sweep that ended, RUN.HASH; it holds the error of one that failed."""


@dataclass(frozen=True)
class Status:
    """One run's state; times are UTC, ISO 8601."""

    state: State
    stage: str = ""
    process: int = 0
    host: str = ""
    began: str = ""
    changed: str = ""
    error: str = ""


class _Planned(TypedDict):
    """A job of plan.json."""

    run: str


class _Plan(TypedDict):
    """plan.json."""

    jobs: list[_Planned]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(folder: Path) -> Status | None:
    """A run's status as it was written; None where it never was, or is no such file."""
    found = kept_json(folder / "status.json", Status)
    return msgspec.convert(found, Status) if found else None


class Log:
    """Writes one run's status as it goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._status = Status("running", "", os.getpid(), platform.node(), _now(), _now())

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._write(replace(self._status, stage=name))

    def ended(self, error: BaseException | None) -> None:
        """The run ended, well or with an error."""
        if error is None:
            self._write(replace(self._status, state="done", stage=""))
            return
        lines = str(error).strip().splitlines() or [type(error).__name__]
        state: State = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        self._write(replace(self._status, state=state, error=lines[-1][:500]))

    def _write(self, status: Status) -> None:
        """Write the status. On a full disk it replaces the text of the old file, which no longer holds."""
        self._status, path = replace(status, changed=_now()), self.folder / "status.json"
        try:
            write_json(path, asdict(self._status))
        except OSError as error:
            log.debug("%s", error)
            try:
                with path.open("r+b") as file:
                    file.write(json.dumps(asdict(self._status)).encode())
                    file.truncate()
            except OSError:
                path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a run's folder for this process alone, rid of half-written files. Raises RunError, naming who has it, where
    another process does."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=PROBED_S)
    except Timeout:
        status = read_status(folder)
        who = f"process {status.process} on {status.host} since {status.began}" if status else "another process"
        raise RunError(
            f"{folder} is in use by {who}; wait for it, end it, or set tag=NAME for a run of its own"
        ) from None
    try:
        clear_unfinished(folder)
        yield
    finally:
        lock.release()


def state_of(folder: Path) -> Status:
    """A run's state now."""
    status = read_status(folder) or Status("stopped")
    if status.state != "running":
        return status
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError):  # somebody has it, or nobody can: a folder that is not ours to write in
        return status
    lock.release()
    return replace(status, state="stopped")


def statuses(output_dir: Path) -> dict[str, Status]:
    """The state of every run of an output folder, those that were planned and not begun last."""
    folders = sorted(path.parent for path in (output_dir / "runs").glob("*/run.json"))
    found = {folder.name: state_of(folder) for folder in folders}
    plan = output_dir / PLAN
    try:
        planned = read_json(plan, _Plan)["jobs"] if plan.exists() else []
    except DamagedError as error:
        log.warning("%s", error)
        planned = []
    jobs = Counter(job["run"] for job in planned)
    ended = Counter(path.stem for path in (output_dir / ENDED).glob("*"))
    for run, count in jobs.items():
        state = found[run].state if run in found else "pending"
        if state == "pending" or (state == "done" and ended[run] < count > 1):
            found[run] = Status("pending")
    return found


def table(found: dict[str, Status]) -> Table:
    """The states for the console."""
    counts = Counter(status.state for status in found.values())
    title = ", ".join(f"{counts[state]} {state}" for state in COLOURS if counts[state])
    shown = Table(title=title or "no runs", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("run", "state", "stage", "changed", "last line"):
        shown.add_column(column, overflow="fold")
    for run, status in found.items():
        changed = status.changed.replace("T", " ").removesuffix("+00:00")
        told = (Text(one_line(word)) for word in (status.stage, changed, status.error))
        shown.add_row(Text(one_line(run)), Text(status.state, COLOURS[status.state]), *told)
    return shown


def main() -> None:
    """Entry point of the console script. Exit codes: 0, or 1 where a run failed, 2 where there is no such folder."""
    parser = argparse.ArgumentParser(prog="alttrain-status", description="The state of every run of an output folder.")
    parser.add_argument("output_dir", type=Path, nargs="?", default=Path("outputs"))
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="show it again and again")
    asked = parser.parse_args()
    if not asked.output_dir.is_dir():
        print(f"{asked.output_dir} is no folder; give an output_dir such as outputs", file=sys.stderr)
        sys.exit(2)
    console = Console()
    try:
        while True:
            found = statuses(asked.output_dir)
            if asked.watch:
                console.clear()
            console.print(table(found))
            if not asked.watch:
                sys.exit(int(any(status.state == "failed" for status in found.values())))
            time.sleep(asked.watch)
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
