"""The one way to read a file of a run, a cache or a folder received from others.

Such a file may be anything: torn, empty, of another program, a folder, a pipe. What is not what it should be ends in a
`DamagedError`, one line with the file, the place in it and what to do; an absent file is a FileNotFoundError as ever.
The JSON is strict: UTF-8, no NaN, no half of a surrogate pair, no number that does not fit.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from alttrain.records.files import write_text

log = logging.getLogger(__name__)

Made = TypeVar("Made")

REMEDY = "delete the file and run the same command again"
LONGEST = 500
"""Characters of what an error says of a file's content."""
NO_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises where JSON is not what it should be."""


class DamagedError(ValueError):
    """A file that cannot be read as what it should be: `path`, what is wrong with it and where, and the remedy."""

    def __init__(self, path: Path, what: object, line: int | None = None, remedy: str = REMEDY) -> None:
        super().__init__(f"{path}{'' if line is None else f' line {line}'}: {str(what)[:LONGEST]}; {remedy}")
        self.path = path


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A file to read. Raises DamagedError where it is none, or may not be read. A pipe is not waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedError(path, f"cannot be opened ({error.strerror})", remedy="see to that, and try again") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DamagedError(path, "is no regular file", remedy="remove it, and run the same command again")
    with os.fdopen(handle, "rb") as file:
        yield file


def read_bytes(path: Path) -> bytes:
    """All of a file."""
    with opened(path) as file:
        return file.read()


def read_utf8(path: Path, remedy: str = REMEDY) -> str:
    """All of a text file."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError(path, f"is not UTF-8 text ({error.reason})", remedy=remedy) from error


def read_json(path: Path, schema: Any = dict[str, Any], remedy: str = REMEDY) -> Any:
    """A JSON document as it stands there, once it is what the schema says: any type that msgspec knows.

    What the schema does not name is let through: a later version may have written it.
    """
    content = read_bytes(path)
    try:
        msgspec.json.decode(content, type=schema)
        return msgspec.json.decode(content)
    except NO_JSON as error:
        raise DamagedError(path, _said(error), remedy=remedy) from error


def kept_json(path: Path, schema: Any = dict[str, Any]) -> Any:
    """`read_json` of a file that is made anew where it is absent or damaged: None then."""
    try:
        return read_json(path, schema)
    except (FileNotFoundError, DamagedError):
        return None


def _said(error: Exception) -> str:
    return "the JSON is nested too deeply" if isinstance(error, RecursionError) else f"not the JSON expected ({error})"


def checksum(path: Path) -> str | None:
    """The SHA-256 of a file; None where it is absent."""
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def seal(path: Path) -> None:
    """Write a file's checksum beside it, NAME.sha256, once it is whole."""
    write_text(_seal(path), f"{checksum(path)}\n")


def from_cache(path: Path, read: Callable[[Path], Made]) -> Made | None:
    """What `read` makes of a cached file; None where it is absent or damaged: then it is made again.

    A file without a seal is an older version's, or a kill came between the two: `read` has to do.
    """
    if not path.exists():
        return None
    try:
        if _seal(path).exists() and read_utf8(_seal(path)).strip() != checksum(path):
            raise DamagedError(path, "its checksum is another")
        return read(path)
    except Exception as error:  # whatever a library says of a file that is not its own
        log.warning("%s is damaged, and is made again (%s: %s)", path, type(error).__name__, error)
        return None


def _seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
