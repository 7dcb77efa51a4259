"""A report is built in a temporary folder next to the report folder, and replaces it when it is complete.

Several reports may be made at once. Nothing is written or removed outside these two folders, whatever names and links
the output folder contains, since it may come from somebody else.
"""

import contextlib
import ctypes
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from alttrain.records import UNFINISHED

OF_RUN = ("run.json", "train.json", "rewrite.json", "fingerprint.json", "logs/metrics.csv", "probe.csv")
ROWS = ("judgements.jsonl", "generations.jsonl", "adherence.jsonl")
OF_BENCHMARK = ("metrics.json", "fingerprint.json", "judges.json", *ROWS)
"""The files of a run and of its evaluations that a report is made from."""
TRIES = 20  # number of attempts to replace a report that another process replaces too
FORGOTTEN_S = 3600  # age in seconds from which a temporary folder counts as left behind by a kill
STAMP = ".stamp"
State = tuple[int, int, int]  # a file's inode, size and time of modification
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of fcntl.h and linux/fs.h


def inputs(runs: Path) -> dict[Path, dict[str, State]]:
    """The `states` of a report's inputs, by folder: those of each run, followed by those of its evaluations."""
    by_folder = {}
    for record in sorted(runs.glob("*/run.json")):
        by_folder[record.parent] = states(record.parent, OF_RUN)
        for metrics in sorted(record.parent.glob("evaluation/*/metrics.json")):
            by_folder[metrics.parent] = states(metrics.parent, OF_BENCHMARK)
    return by_folder


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A temporary folder next to the report's, removed when the block ends. Also removes those that kills left."""
    for leftover in folder.parent.glob(f".{folder.name}.*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.lstat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=UNFINISHED))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def states(folder: Path, names: Collection[str]) -> dict[str, State]:
    """The state of each file of these names that exists; it differs once the file has changed."""
    by_name = {}
    for name in names:
        with contextlib.suppress(OSError):
            status = os.stat(os.path.join(folder, name))
            if stat.S_ISREG(status.st_mode):
                by_name[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return by_name


def keep(folder: Path, new_folder: Path, last_files: Collection[str]) -> None:
    """Copy other files of the report folder to the new one. The files of the last report are dropped."""
    for name in sorted(files(folder) - {*last_files, STAMP}):
        if not name.endswith(UNFINISHED):
            (new_folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(folder / name, new_folder / name)
            except OSError:  # no hard links on this file system
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy2(folder / name, new_folder / name)


def put(new_folder: Path, folder: Path) -> None:
    """Replace the report folder by a complete report, by an atomic swap if the system supports it, else by a move."""
    for attempt in range(TRIES):
        try:
            if not _exchanged(new_folder, folder):
                if os.path.lexists(folder):
                    folder.rename(new_folder.with_name(f"before-{attempt}"))
                new_folder.rename(folder)
            return
        except OSError:  # another process replaced `folder` meanwhile
            if attempt == TRIES - 1:
                raise


def files(folder: Path) -> set[str]:
    """The files below a folder; links are not followed."""
    relative = set()
    for parent, _, names in os.walk(folder) if not folder.is_symlink() else ():
        paths = (Path(parent, name) for name in names)
        relative |= {path.relative_to(folder).as_posix() for path in paths if stat.S_ISREG(path.lstat().st_mode)}
    return relative


def _exchanged(new_folder: Path, folder: Path) -> bool:
    """Swap two folders atomically. Returns False if the system cannot, or if a folder is missing."""
    if sys.platform != "linux" or not os.path.lexists(folder):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    new_name, name = os.fsencode(new_folder), os.fsencode(folder)
    return rename is not None and rename(_AT_FDCWD, new_name, _AT_FDCWD, name, _RENAME_EXCHANGE) == 0
