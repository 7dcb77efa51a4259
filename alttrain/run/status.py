"""The states of runs: status.json and a lock in each folder, and the console script that shows them.

    alttrain-status [OUTPUT_DIR] [--watch SECONDS]

A run whose status says running, but whose lock is free, was killed and is shown as stopped. A run is pending if a sweep
planned it (OUTPUT_DIR/.sweep/plan.json) and it has not begun, or if it has planned evaluations left. A job that failed
before it had a folder, as in its check, is failed: the sweep keeps its error (OUTPUT_DIR/.sweep/ended).
"""

import argparse
import logging
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypedDict

import msgspec
from filelock import Timeout
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alttrain.config import RunError
from alttrain.config.secrets import mask_secrets
from alttrain.records import DamagedError, clear_unfinished, file_lock, json_or_none, read_json, read_utf8, write_json
from alttrain.report.escaping import one_line
from alttrain.run import console_script
from alttrain.run.progress import listeners

log = logging.getLogger(__name__)

State = Literal["running", "done", "failed", "stopped", "pending"]
COLOURS: dict[State, str] = {"running": "cyan", "done": "green", "failed": "red", "stopped": "yellow", "pending": "dim"}
PROBED_S = 0.5
"""Seconds to wait for a run's lock. `state_of` may hold the lock of a killed run for a shorter time."""
PLAN = Path(".sweep") / "plan.json"
ENDED = Path(".sweep") / "ended"
"""One file, RUN.HASH, for each finished job of the last sweep. It holds the error if the job failed."""


@dataclass(frozen=True)
class Status:
    """The state of one run. Times are UTC, ISO 8601; `note` is the stage's progress, `error` the error on one line."""

    state: State
    stage: str = ""
    process: int = 0
    host: str = ""
    began: str = ""
    changed: str = ""
    error: str = ""
    note: str = ""


class _Planned(TypedDict):
    run: str


class _Plan(TypedDict):
    jobs: list[_Planned]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _on_one_line(error: str) -> str:
    return " ".join(error.split())[:500]


def read_status(folder: Path) -> Status | None:
    """Return a run's status as written; None if the file is missing or damaged."""
    record = json_or_none(folder / "status.json", Status)
    return msgspec.convert(record, Status) if record else None


class Log:
    """Writes the status of one run as it proceeds. As a context manager, it records how the run ends."""

    def __init__(self, folder: Path, status: Status | None = None) -> None:
        """Go on from the status that another process of the run wrote, if one is given."""
        self._path = folder / "status.json"
        this_process = Status("running", "", os.getpid(), platform.node(), _now())
        self._status = replace(status, process=this_process.process, host=this_process.host) if status else this_process

    def __enter__(self) -> "Log":
        listeners.append(self.note)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        listeners.remove(self.note)
        self.ended(error)
        if isinstance(error, Exception) and self._another_failed():
            raise RunError("another process of this training failed first, and its output says why") from error

    def note(self, line: str) -> None:
        self._write(replace(self._status, note=line))

    def stage(self, name: str) -> None:
        self._write(replace(self._status, stage=name, note=""))

    def ended(self, error: BaseException | None) -> None:
        if error is None:
            self._write(replace(self._status, state="done", stage="", note=""))
            return
        state: State = "failed" if isinstance(error, Exception) else "stopped"  # submitit exits if it is preempted
        message = mask_secrets("" if isinstance(error, SystemExit) else str(error).strip()) or type(error).__name__
        self._write(replace(self._status, state=state, error=_on_one_line(message)))

    def _another_failed(self) -> bool:
        """Return whether another process of the training has failed. Its error is kept, since others follow from it."""
        status, written = self._status, read_status(self._path.parent)
        if written is None or (written.host, written.state) != (status.host, "failed"):
            return False
        return written.process != status.process and written.changed > status.began

    def _write(self, status: Status) -> None:
        self._status = replace(status, changed=_now())
        if status.state != "done" and self._another_failed():
            return
        try:
            write_json(self._path, asdict(self._status))
        except OSError as error:
            log.debug("%s", error)
            with suppress(OSError):  # on a full disk, this makes room, and no status is better than an old one
                self._path.unlink(missing_ok=True)
                write_json(self._path, asdict(self._status))


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make and lock a run's folder for this process, and remove half-written files from it.

    Raises RunError if another process holds the lock, and names that process, or if the folder is not writable. On a
    file system without locks, two processes are not kept apart.
    """
    lock = file_lock(folder / ".lock")
    try:
        lock.acquire(timeout=PROBED_S)
    except Timeout:
        status = read_status(folder)
        who = f"process {status.process} on {status.host} since {status.began}" if status else "another process"
        raise RunError(
            f"{folder} is in use by {who}; wait for it, end it, or set tag=NAME for a run of its own"
        ) from None
    except PermissionError as error:
        raise RunError(f"{folder} cannot be written ({error}); see to that, or set output_dir") from error
    except OSError as error:
        log.warning("%s cannot be locked, so start no second command for it: %s", folder, error)
    try:
        clear_unfinished(folder)
        yield
    finally:
        lock.release()


def state_of(folder: Path) -> Status:
    status = read_status(folder) or Status("stopped")
    if status.state != "running":
        return status
    with suppress(OSError), file_lock(folder / ".lock").acquire(timeout=0):
        return replace(status, state="stopped")
    return status  # another process holds the lock, or the folder is not writable


def ended_jobs(output_dir: Path) -> list[tuple[str, str, str]]:
    """Return (run, error, time) of each finished job of the last sweep; the error is "" if the job succeeded."""
    found = []
    for path in sorted((output_dir / ENDED).glob("*")):
        with suppress(OSError, DamagedError):  # another sweep is planned
            ended_at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
            found.append((path.stem, read_utf8(path), ended_at))
    return found


def statuses(output_dir: Path) -> dict[str, Status]:
    """Return the state of every run of an output folder. Planned runs that have not begun come last."""
    runs = sorted(path.parent for path in (output_dir / "runs").glob("*/run.json"))
    states = {folder.name: state_of(folder) for folder in runs}
    for run, error, ended_at in (ended := ended_jobs(output_dir)):
        status = states.get(run, Status("failed"))
        if error and status.state != "running" and status.changed <= ended_at:  # the run has not begun again since
            states[run] = replace(status, state="failed", error=_on_one_line(error), changed=ended_at)
    jobs_ended = Counter(run for run, *_ in ended)
    for run, jobs in _planned(output_dir).items():
        status = states.get(run, Status("pending"))
        is_between = status.state == "done" and jobs_ended[run] < jobs > 1  # one job is done, and another is due
        states[run] = Status("pending") if is_between else status
    return states


def _planned(output_dir: Path) -> Counter[str]:
    """Return the number of jobs of each run that the last sweep planned."""
    path = output_dir / PLAN
    try:
        return Counter(job["run"] for job in (read_json(path, _Plan)["jobs"] if path.exists() else ()))
    except DamagedError as error:
        log.warning("%s", error)
        return Counter()


def config_file(run: Path) -> Path:
    """Return the config.yaml of a run's folder. Raises FileNotFoundError if it is not there."""
    if not (path := run / "config.yaml").exists():
        raise FileNotFoundError(f"{run} is not the folder of a run, such as outputs/runs/NAME: {path} is not there")
    return path


def table(states: dict[str, Status]) -> Table:
    counts = Counter(status.state for status in states.values())
    title = ", ".join(f"{counts[state]} {state}" for state in COLOURS if counts[state])
    console_table = Table(title=title or "no runs", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("run", "state", "stage", "progress or error", "changed"):
        console_table.add_column(column, overflow="fold")
    for run, status in states.items():
        changed = status.changed.replace("T", " ").removesuffix("+00:00")
        cells = (Text(one_line(word)) for word in (status.stage, status.error or status.note, changed))
        console_table.add_row(Text(one_line(run)), Text(status.state, COLOURS[status.state]), *cells)
    return console_table


@console_script()
def main() -> None:
    """Entry point of the console script. Exit codes: 0 shown, 1 a run failed, 2 there are no runs, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="alttrain-status", description="The state of every run of an output folder.")
    parser.add_argument("output_dir", type=Path, nargs="?", default=Path("outputs"))
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="show it again and again, until Ctrl-C")
    arguments = parser.parse_args()
    states, console = statuses(arguments.output_dir), Console()
    if not states and (not arguments.output_dir.is_dir() or arguments.watch is None):
        print(f"{arguments.output_dir} is not the output_dir of runs, the folder that holds runs/", file=sys.stderr)
        sys.exit(2)
    if arguments.watch is not None:
        while True:
            console.clear()
            console.print(table(statuses(arguments.output_dir)))
            time.sleep(max(0.1, arguments.watch))
    console.print(table(states))
    sys.exit(int(any(status.state == "failed" for status in states.values())))


if __name__ == "__main__":
    main()
