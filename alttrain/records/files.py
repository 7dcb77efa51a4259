"""Files that are never half written, and files that several processes share."""

import errno
import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

log = logging.getLogger(__name__)

UNFINISHED = ".part"
"""How the name of a file ends that is being written and will be renamed."""


def write_json(path: Path, value: Any) -> None:
    """Write one indented JSON document whole: a reader sees the old file or the new one, never half."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as `write_json` does."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file in the same folder that takes the path when it is whole; on an error nothing is left of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # whoever may read it is for the umask to say
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        told = named(error, path)  # before the disk has room again
        with suppress(OSError):  # the folder may be missing
            temporary.unlink(missing_ok=True)  # an interrupt may come when it has its name already
        if told is error:
            raise
        raise told from error


def append(path: Path, content: bytes) -> None:
    """Append to a file, flushed to disk; on an error, such as a full disk, nothing of it. Links are not followed."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "a link, which may lead outside of the run, is not written to", str(path))
    with path.open("ab", buffering=0) as file:
        before, left = file.tell(), memoryview(content)
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError as error:
            told = named(error, path)
            file.truncate(before)
            raise told from error


def named(error: BaseException, path: Path) -> BaseException:
    """An error of writing a file, with its name, which a write does not tell; of a full disk also with the disk."""
    if isinstance(error, OSError):
        if not str(error.filename or UNFINISHED).endswith(UNFINISHED):
            return error
        told = f": the disk mounted at {_mount(path)} is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        told = "; remove it, and run the same command again" if error.errno == errno.EISDIR else told
        return OSError(error.errno or errno.EIO, f"{error.strerror or error}{told}", str(path))
    if isinstance(error, Exception) and full_disk(path):  # a library's own words
        return named(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
    return error


def full_disk(path: Path) -> Path | None:
    """Where the disk is mounted that a path is on, if it is full: less than a block is free."""
    mount = _mount(path)
    room = os.statvfs(mount)
    return mount if room.f_bavail == 0 or (room.f_files and room.f_favail == 0) else None


def _mount(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.is_mount())


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Make a file that several processes share without making it twice: the others wait here, and then find it.

    On a file system without locks they go on at once, and make the same file.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting   for another process that makes %s", path)
        lock.acquire()
    except (OSError, NotImplementedError):
        log.debug("%s cannot be locked", path)
    try:
        yield
    finally:
        lock.release()


def clear_unfinished(folder: Path) -> None:
    """Remove what a kill left of files that were being written below a folder; nobody else may be writing there."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
