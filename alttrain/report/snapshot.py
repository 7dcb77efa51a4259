"""A report is made beside its folder, from files that hold still, and takes the folder's place when it is whole.

Runs go on while a report is made, and several reports may be made at once. What is read is a snapshot: hard links where
files are only ever replaced whole, copies of those that grow. Nothing is written or removed outside of the report's
folder and the one beside it, whatever names and links the output folder holds: it may be one that somebody sent.
"""

import contextlib
import ctypes
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from alttrain.records import UNFINISHED, read_json

log = logging.getLogger(__name__)

OF_RUN = ("run.json", "train.json", "rewrite.json", "fingerprint.json", "logs/metrics.csv")
OF_BENCHMARK = (
    *("metrics.json", "fingerprint.json", "judges.json"),
    *("judgements.jsonl", "generations.jsonl", "adherence.jsonl"),
)
"""The files a report is made from."""
GROWING = ("logs/metrics.csv", "judgements.jsonl")
TRIES, PAUSE_S = 20, 0.05
"""How often files that are being written are read again, and after how long."""
FORGOTTEN_S = 3600
"""The age of a report that was begun and killed."""
STAMP = ".stamp"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of fcntl.h and linux/fs.h."""


def inputs(runs: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Each folder with files that a report is made from, and their names: the runs, and after each its evaluations."""
    for record in sorted(runs.glob("*/run.json")):
        yield record.parent, OF_RUN
        for judged in sorted(record.parent.glob("evaluation/*/metrics.json")):
            yield judged.parent, OF_BENCHMARK


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A folder beside the report's, gone when the block ends; those that kills left are gone, too."""
    for left in folder.parent.glob(f".{folder.name}.*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=UNFINISHED))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def snapshot(runs: Path, into: Path) -> None:
    """The runs' files as they are now. An evaluation that is written to all the while is left out, with a warning."""
    for folder, names in inputs(runs):
        place = into / folder.relative_to(runs)
        for path in (folder / name for name in names if (folder / name).exists() and not (folder / name).is_file()):
            log.warning("report    not read, as it is no regular file: %s", path)
        for again in range(TRIES):
            before = states(folder, names)
            for name in before:
                _take(folder / name, place / name)
            if states(folder, names) == before and (names is OF_RUN or _agree(place)):
                break
            shutil.rmtree(place, ignore_errors=True)
            time.sleep(PAUSE_S if again < TRIES - 1 else 0)
        else:
            log.warning("report    left out, being written or damaged (its command judges it again): %s", folder)


def states(folder: Path, names: Collection[str]) -> dict[str, tuple[int, int, int]]:
    """The files of these names that are there, and what changes when they do: inode, size and time."""
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            state = (folder / name).stat()
            if stat.S_ISREG(state.st_mode):
                found[name] = (state.st_ino, state.st_size, state.st_mtime_ns)
    return found


def _take(source: Path, place: Path) -> None:
    """Take a file, which may be gone by now, as a link or a copy."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not str(source).endswith(GROWING):
            with contextlib.suppress(OSError):  # no links here, or none between these two disks
                os.link(source.resolve(), place)
                return
        shutil.copyfile(source, place)


def _agree(evaluation: Path) -> bool:
    """Whether the rows are whole and are those of the metrics; what cannot be read is for others to tell."""
    for path in evaluation.glob("*.jsonl"):
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
                return False
    try:
        judged = read_json(evaluation / "metrics.json")
        made, judges = judged["provenance"], evaluation / "judges.json"
        if judges.exists() and read_json(judges) != made["judges"]:
            return False
        rows = (evaluation / "judgements.jsonl").read_bytes().count(b"\n")
        return bool(rows == judged["metrics"][0]["n"] * len(made["judges"]) * len(made["parts"]))
    except (OSError, ValueError, LookupError, TypeError):  # an older version's, or none
        return True


def keep(folder: Path, made: Path, ours: Collection[str]) -> None:
    """Take over what else the report's folder holds; `ours` is what the last report made, of which nothing is kept."""
    for name in sorted(files(folder) - {*ours, STAMP}):
        if not name.endswith(UNFINISHED):
            _take(folder / name, made / name)


def put(made: Path, folder: Path) -> None:
    """Let a report that is whole take the folder's place: swapped in one step where the system can, else moved in."""
    for again in range(TRIES):
        try:
            if not _exchanged(made, folder):
                if os.path.lexists(folder):
                    folder.rename(made.with_name(f"before-{again}"))
                made.rename(folder)
            return
        except OSError:  # another process put its own there meanwhile
            if again == TRIES - 1:
                raise


def files(folder: Path) -> set[str]:
    """The files below a folder, of which no link leads anywhere."""
    found = set()
    for place, _, names in os.walk(folder) if not folder.is_symlink() else ():
        paths = (Path(place, name) for name in names)
        found |= {path.relative_to(folder).as_posix() for path in paths if stat.S_ISREG(path.lstat().st_mode)}
    return found


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where there is no such step, or only one folder."""
    if sys.platform != "linux" or not os.path.lexists(other):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def inside(folder: Path, path: Path) -> bool:
    """Whether a path is below a folder when every link is followed."""
    return path.resolve().is_relative_to(folder.resolve())
