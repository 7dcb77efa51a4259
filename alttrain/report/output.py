"""A report is built in a temporary folder next to the report folder, and its files are moved there when it is complete.

Several reports may be made at once. Nothing is written or removed outside these two folders, whatever names and links
the output folder contains, since it may come from somebody else.
"""

import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alttrain.records import UNFINISHED, write_text

OF_RUN = ("run.json", "train.json", "rewrite.json", "fingerprint.json", "logs/metrics.csv", "probe.csv")
ROWS = ("judgements.jsonl", "generations.jsonl", "adherence.jsonl")
OF_BENCHMARK = ("metrics.json", "fingerprint.json", "judges.json", "structure.json", *ROWS)
"""The files of a run and of its evaluations that a report is made from."""
FORGOTTEN_S = 3600  # age in seconds from which a temporary folder counts as left behind by a kill
STAMP = ".stamp"
State = tuple[int, int, int]  # a file's inode, size and time of modification


def inputs(runs: Path) -> dict[Path, dict[str, State]]:
    """The `file_states` of a report's inputs, by folder: those of each run, followed by those of its evaluations."""
    by_folder = {}
    for record in sorted(runs.glob("*/run.json")):
        by_folder[record.parent] = file_states(record.parent, OF_RUN)
        for metrics in sorted(record.parent.glob("evaluation/*/metrics.json")):
            by_folder[metrics.parent] = file_states(metrics.parent, OF_BENCHMARK)
    return by_folder


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder next to the report's, removed when the block ends. Also removes those that kills left."""
    for leftover in folder.parent.glob(f".{folder.name}.*{UNFINISHED}"):
        with suppress(OSError):
            if time.time() - leftover.lstat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=UNFINISHED))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def file_states(folder: Path, names: Collection[str]) -> dict[str, State]:
    """The state of each file of these names that exists; it differs once the file has changed."""
    by_name = {}
    for name in names:
        with suppress(OSError):
            status = os.stat(os.path.join(folder, name))
            if stat.S_ISREG(status.st_mode):
                by_name[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return by_name


def put(new_folder: Path, folder: Path, last_files: Collection[str]) -> None:
    """Move the files of a complete report into the report folder, and remove those of the last one that are stale.

    Other files stay. No link is followed: one in the place of a folder is removed, one in the place of a file replaced.
    """
    new_files = files(new_folder)
    for parent in sorted({Path(name).parent for name in new_files}):
        if (folder / parent).is_symlink():
            (folder / parent).unlink()
        (folder / parent).mkdir(exist_ok=True)
    # if this is killed, the next report knows which files are its own, and is made anew
    unfinished = dict.fromkeys({*last_files, *new_files} - {STAMP}, (0, 0, 0))
    write_text(folder / STAMP, json.dumps({"digest": "", "files": unfinished}))
    for name in files(folder) & ({*last_files} - new_files):
        (folder / name).unlink()
    for name in sorted(new_files, key=lambda name: (name == STAMP, name)):  # the stamp last
        os.replace(new_folder / name, folder / name)


def files(folder: Path) -> set[str]:
    """The files below a folder; links are not followed."""
    paths = () if folder.is_symlink() else folder.rglob("*")
    return {path.relative_to(folder).as_posix() for path in paths if stat.S_ISREG(path.lstat().st_mode)}
