"""Files: written atomically, shared between processes under a lock, and read strictly.

A file is written under a temporary name and renamed (`replacing`), or grows by whole writes (`append`). A file that is
torn, empty or foreign, and a folder or pipe in its place, raise `DamagedError`: one line with the file, the place in it
and the remedy. An absent file raises FileNotFoundError. Accepted JSON is UTF-8 without NaN, without lone surrogates,
and with numbers in range.
"""

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

Cached = TypeVar("Cached")

UNFINISHED = ".part"  # suffix of the temporary name of a file that is being written
REMEDY = "delete the file and run the same command again"
LONGEST = 500  # most characters of a fault in an error message
COMPUTED = re.compile(r"'*([=+\-@\t\r\n＝＋－＠]|\d[\d.,]*(e[+-]?\d+)?$)", re.IGNORECASE)
"""A text that a spreadsheet would compute or change into a number, as it would a hash such as 0123 or 12e45678, or that
`literal` has already escaped. Some take full-width signs for the ordinary ones."""
NO_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what msgspec raises on bad JSON


def cache_folder() -> Path:
    """Return `ALTTRAIN_CACHE`, or alttrain's folder in the user's cache directory."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("ALTTRAIN_CACHE") or user_cache_path("alttrain"))


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON document atomically. Raises ValueError for nan and infinity, which no reader takes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file in the same folder, renamed to `path` when the block ends and removed on an error."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # permissions follow the umask
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        named = _named(error, path)  # named first: removing the file below makes room on a full disk
        with suppress(OSError):  # the folder may be missing
            temporary.unlink(missing_ok=True)  # an interrupt may come after the rename
        if named is error:
            raise
        raise named from error


def append(path: Path, content: bytes) -> None:
    """Append to a file and flush it to disk. On an error, such as a full disk, nothing is added. Refuses links."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "a link, which may lead outside of the run, is not written to", str(path))
    with path.open("ab", buffering=0) as file:
        size, unwritten = file.tell(), memoryview(content)
        try:
            while unwritten:
                unwritten = unwritten[file.write(unwritten) :]
            os.fsync(file.fileno())
        except OSError as error:
            named = _named(error, path)
            file.truncate(size)
            raise named from error


def _named(error: BaseException, path: Path) -> BaseException:
    """Return the error with the name of the file, which a failed write lacks, and a note if the disk is full."""
    if isinstance(error, OSError):
        if not str(error.filename or UNFINISHED).endswith(UNFINISHED):
            return error
        note = f": the disk mounted at {_mount(path)} is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        note = "; remove it, and run the same command again" if error.errno == errno.EISDIR else note
        return OSError(error.errno or errno.EIO, f"{error.strerror or error}{note}", str(path))
    if isinstance(error, Exception) and full_disk(path):  # a library's exception that is no OSError
        return _named(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
    return error


def full_disk(path: Path) -> Path | None:
    """Return the mount point of the disk that holds `path` if less than one block is free on it, else None."""
    mount = _mount(path)
    disk = os.statvfs(mount)
    return mount if disk.f_bavail == 0 or (disk.f_files and disk.f_favail == 0) else None


def _mount(path: Path) -> Path:
    return next(folder for folder in path.resolve().parents if folder.is_mount())  # an output folder may be a link


def file_lock(path: Path) -> FileLock:
    """Return a lock that ends with its process, however that ends. To acquire it raises OSError where files have none.

    There filelock would take the presence of a file for the lock. After a kill the file stays, and a process on another
    host cannot know that its owner is gone.
    """
    return FileLock(path, fallback_to_soft=False)


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock while making a file that several processes share. The others wait and then find the file.

    On a file system without locks no process waits, and each makes the same file. Yields whether there is a lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = file_lock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting   for another process that makes %s", path)
        lock.acquire()
    except OSError:
        log.debug("%s cannot be locked", path)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def clear_unfinished(folder: Path) -> None:
    """Remove temporary files that a kill left below a folder. No other process may be writing there."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


class DamagedError(ValueError):
    """A file that does not have the expected content. The message has `path`, line, fault and remedy."""

    def __init__(self, path: Path, what: object, line: int | None = None, remedy: str = REMEDY) -> None:
        super().__init__(f"{path}{'' if line is None else f' line {line}'}: {str(what)[:LONGEST]}; {remedy}")
        self.path = path


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Yield a regular file, open for reading. Raises DamagedError for anything else; does not wait for a pipe."""
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
    """Return a file's content."""
    with open_regular(path) as file:
        return file.read()


def read_utf8(path: Path) -> str:
    """Return a text file's content."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError(path, f"is not UTF-8 text ({error.reason})") from error


def read_json(path: Path, schema: Any = dict[str, Any], remedy: str = REMEDY) -> Any:
    """Return a JSON document, checked against `schema`, any type that msgspec knows.

    Keys that the schema does not name are kept: a later version may have written them.
    """
    content = read_bytes(path)
    try:
        msgspec.json.decode(content, type=schema)
        return msgspec.json.decode(content)
    except NO_JSON as error:
        raise DamagedError(path, f"not the JSON expected ({error})", remedy=remedy) from error


def json_or_none(path: Path, schema: Any = dict[str, Any]) -> Any:
    """Return what `read_json` does, for a file that can be made again: None if it is absent or damaged."""
    try:
        return read_json(path, schema)
    except (FileNotFoundError, DamagedError):
        return None


def checksum(path: Path) -> str | None:
    """Return the SHA-256 of a file as hex digits; None if it is absent."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def known_checksum(path: Path) -> str | None:
    """Return the `checksum` of an existing file. A process reads it once, unless size or modification time changes."""
    state = path.stat()
    return _checksum_of(path, state.st_size, state.st_mtime_ns)


@cache
def _checksum_of(path: Path, *state: int) -> str | None:
    return checksum(path)


def seal(path: Path) -> None:
    """Write the checksum of a complete file to NAME.sha256 beside it."""
    write_text(path.with_name(f"{path.name}.sha256"), f"{checksum(path)}\n")


def read_cached(path: Path, read: Callable[[Path], Cached]) -> Cached | None:
    """Return `read(path)` of a cached file; None if it is absent, or, with a warning, damaged or without a seal."""
    if not path.exists():
        return None
    try:
        if read_utf8(path.with_name(f"{path.name}.sha256")).strip() != checksum(path):
            raise DamagedError(path, "its checksum is another")
        return read(path)
    except Exception as error:  # any exception of a library that reads a foreign file
        log.warning("%s is damaged, and is made again (%s: %s)", path, type(error).__name__, error)
        return None


def literal(value: Any) -> Any:
    """A cell that a spreadsheet shows as it is: a text like a formula or a number gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"\r(?!\n)", "\n", value)  # csv would leave a lone carriage return unquoted
    return f"'{value}" if COMPUTED.match(value) else value


def read_literal(text: str) -> str:
    """The inverse of `literal`."""
    return text[1:] if text.startswith("'") and COMPUTED.match(text) else text
