"""Files that are never half written, and files that several processes share."""

import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with temporary.open("xb") as file:  # whoever may read it is for the umask to say
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)  # an interrupt may come when it has its name already
        if isinstance(error, OSError) and error.filename is None:  # a write does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


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
