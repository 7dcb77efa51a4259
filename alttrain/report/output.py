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

OF_RUN = ("run.json", "train.json", "rewrite.json", "fingerprint.json", "logs/metrics.csv")
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
    found = {}
    for record in sorted(runs.glob("*/run.json")):
        found[record.parent] = states(record.parent, OF_RUN)
        for judged in sorted(record.parent.glob("evaluation/*/metrics.json")):
            found[judged.parent] = states(judged.parent, OF_BENCHMARK)
    return found


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A temporary folder next to the report's, removed when the block ends. Also removes those that kills left."""
    for left in folder.parent.glob(f".{folder.name}.*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=UNFINISHED))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def states(folder: Path, names: Collection[str]) -> dict[str, State]:
    """The state of each file of these names that exists; it differs once the file has changed."""
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            state = os.stat(os.path.join(folder, name))
            if stat.S_ISREG(state.st_mode):
                found[name] = (state.st_ino, state.st_size, state.st_mtime_ns)
    return found


def keep(folder: Path, made: Path, ours: Collection[str]) -> None:
    """Carry over other files of the report folder. `ours` are the files of the last report, which are dropped."""
    for name in sorted(files(folder) - {*ours, STAMP}):
        if not name.endswith(UNFINISHED):
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(folder / name, made / name)


def put(made: Path, folder: Path) -> None:
    """Replace the report folder by a complete report, by an atomic swap if the system supports it, else by a move."""
    for again in range(TRIES):
        try:
            if not _exchanged(made, folder):
                if os.path.lexists(folder):
                    folder.rename(made.with_name(f"before-{again}"))
                made.rename(folder)
            return
        except OSError:  # another process put its report there meanwhile
            if again == TRIES - 1:
                raise


def files(folder: Path) -> set[str]:
    """The files below a folder; links are not followed."""
    found = set()
    for place, _, names in os.walk(folder) if not folder.is_symlink() else ():
        paths = (Path(place, name) for name in names)
        found |= {path.relative_to(folder).as_posix() for path in paths if stat.S_ISREG(path.lstat().st_mode)}
    return found


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two folders atomically. Returns False if the system cannot, or if a folder is missing."""
    if sys.platform != "linux" or not os.path.lexists(other):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
