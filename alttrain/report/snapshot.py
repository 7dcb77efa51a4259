"""A report is built in a temporary folder from a snapshot of the runs, and replaces the report folder when complete.

Runs continue while a report is made, and several reports may be made at once. The snapshot has hard links to files that
are only replaced whole, and copies of files that grow. Nothing is written or removed outside the report folder and the
temporary folder next to it, whatever names and links the output folder contains, since it may come from somebody else.
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

from alttrain.records import UNFINISHED, DamagedError, checksum, read_metrics

log = logging.getLogger(__name__)

OF_RUN = ("run.json", "train.json", "rewrite.json", "fingerprint.json", "logs/metrics.csv")
ROWS = ("judgements.jsonl", "generations.jsonl", "adherence.jsonl")
OF_BENCHMARK = ("metrics.json", "fingerprint.json", "judges.json", *ROWS)
"""The files of a run and of its evaluations that a report is made from."""
GROWING = ("logs/metrics.csv", "judgements.jsonl")
TRIES, PAUSE_S = 20, 0.05
"""Number of attempts to read files that are being written, and the pause between them in seconds."""
FORGOTTEN_S = 3600  # age in seconds from which a temporary folder counts as left behind by a kill
STAMP = ".stamp"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of fcntl.h and linux/fs.h


def inputs(runs: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """(folder, file names) of each folder with inputs of a report: each run, followed by its evaluations."""
    for record in sorted(runs.glob("*/run.json")):
        yield record.parent, OF_RUN
        for judged in sorted(record.parent.glob("evaluation/*/metrics.json")):
            yield judged.parent, OF_BENCHMARK


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


def snapshot(runs: Path, into: Path) -> None:
    """Take a snapshot of the runs. An evaluation that keeps being written to is left out, with a warning."""
    for folder, names in inputs(runs):
        place = into / folder.relative_to(runs)
        regular = states(folder, names)
        for path in (folder / name for name in names if name not in regular):
            if path.exists():
                log.warning("report    not read, as it is no regular file: %s", path)
        for again in range(TRIES):
            before = states(folder, names)
            for below in {os.path.dirname(name) for name in before}:
                (place / below).mkdir(parents=True, exist_ok=True)
            for name in before:
                _take(os.path.join(folder, name), os.path.join(place, name))
            if states(folder, names) == before and (names is OF_RUN or _agree(place)):
                break
            shutil.rmtree(place, ignore_errors=True)
            time.sleep(PAUSE_S if again < TRIES - 1 else 0)
        else:
            log.warning("report    left out, being written or damaged (its command judges it again): %s", folder)


def states(folder: Path, names: Collection[str]) -> dict[str, tuple[int, int, int]]:
    """(inode, size, time) of each file of these names that exists; it differs once the file has changed."""
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            state = os.stat(os.path.join(folder, name))
            if stat.S_ISREG(state.st_mode):
                found[name] = (state.st_ino, state.st_size, state.st_mtime_ns)
    return found


def _take(source: str | Path, place: str | Path) -> None:
    """Link or copy a file, which may have been removed meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if not str(source).endswith(GROWING):
            with contextlib.suppress(OSError):  # no hard links on this file system, or not between these two
                os.link(os.path.realpath(source) if os.path.islink(source) else source, place)
                return
        shutil.copyfile(source, place)


def _agree(evaluation: Path) -> bool:
    """Whether the rows are complete and match the metrics. Damaged files pass here; their reader reports them."""
    for path in evaluation.glob("*.jsonl"):
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
                return False
    try:
        made_from = read_metrics(evaluation / "metrics.json")["made_from"]
        return all(checksum(evaluation / name) == made_from.get(name) for name in ("judgements.jsonl", "judges.json"))
    except DamagedError:
        return True


def keep(folder: Path, made: Path, ours: Collection[str]) -> None:
    """Carry over other files of the report folder. `ours` are the files of the last report, which are dropped."""
    for name in sorted(files(folder) - {*ours, STAMP}):
        if not name.endswith(UNFINISHED):
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            _take(folder / name, made / name)


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
