"""Rows as the lines of a JSON lines file: read, checked, appended, repaired and put in order."""

import dataclasses
import hashlib
import json
import os
import types
import typing
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from alttrain.records.files import append, replacing
from alttrain.records.reading import NO_JSON, DamagedError, opened
from alttrain.records.rows import Generation

Row = TypeVar("Row")
"""Any frozen dataclass of JSON values, tuples and such dataclasses."""
_SEAL = b', "checksum": "'
"""What a row's checksum follows; no text can hold it."""


def encode(row: Any) -> str:
    """One JSON line, without the newline."""
    return json.dumps(dataclasses.asdict(row), ensure_ascii=False)


def decode(line: str | bytes, row_type: type[Row], where: str) -> Row:
    """The row in one JSON line. Raises ValueError, naming `where`, on malformed JSON, missing or unknown values."""
    try:
        fields = msgspec.json.decode(line)
    except NO_JSON as error:
        raise ValueError(f"{where}: not a JSON object: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(fields).__name__}")
    return build(fields, row_type, where)


def build(fields: dict[str, Any], row_type: type[Row], where: str) -> Row:
    """A row from a mapping of its fields; the errors are those of `decode`."""
    known = {field.name: field for field in dataclasses.fields(row_type)}  # type: ignore[arg-type]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}; accepted: {', '.join(known)}")
    required = [name for name, field in known.items() if field.default is dataclasses.MISSING]
    missing = [name for name in required if name not in fields]
    if missing:
        raise ValueError(f"{where}: missing field {missing[0]!r}; every row needs {', '.join(required)}")
    hints = _hints(row_type)
    return row_type(**{name: _value(value, hints[name], f"{where}: field {name!r}") for name, value in fields.items()})


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(row_type: type[Any]) -> dict[str, Any]:
    if row_type not in _HINTS:
        _HINTS[row_type] = get_type_hints(row_type)
    return _HINTS[row_type]


def _value(value: Any, hint: Any, where: str) -> Any:
    """A JSON value as the annotated type. Raises ValueError on the wrong type or a value outside a Literal."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where}: {value!r} is not known; accepted: {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, found {value!r}")
        return tuple(_value(item, arguments[0], where) for item in value)
    if origin in (typing.Union, types.UnionType):
        return value if value is None else _value(value, next(a for a in arguments if a is not type(None)), where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, found {value!r}")
        return build(value, hint, where)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def iterate_rows(path: Path, row_type: type[Row], after: int = 0) -> Iterator[Row]:
    """Rows of a JSON lines file, one at a time, after so many. Raises DamagedError, which names file and line.

    msgspec reads a row some ten times faster than `decode`, which is kept for what msgspec does not do: telling a
    fault in our words, and refusing unknown fields. Those are looked for in the first row: one version writes a file.
    """
    decoder, rows = msgspec.json.Decoder(row_type), 0
    with opened(path) as lines:
        for number, line in enumerate(lines, 1):
            rows += bool(line.strip())
            if rows > after and line.strip():
                if rows == after + 1:
                    _row(line, None, row_type, path, number)
                yield _row(line, decoder, row_type, path, number)


def _row(line: bytes, decoder: Any, row_type: type[Row], path: Path, number: int) -> Row:
    """The row in a file's line; without a decoder its fields are looked at one by one."""
    try:
        row: Row = decoder.decode(line) if decoder else decode(line, row_type, "")
        if row_type not in _EDITED and not unchanged(line):
            raise ValueError("the row is not what was written")
        return row
    except (ValueError, RecursionError) as error:
        if decoder and dataclasses.is_dataclass(row_type):
            _row(line, None, row_type, path, number)
        raise DamagedError(path, str(error).removeprefix(": "), number) from error


def parse_rows(content: bytes, row_type: type[Row], path: Path) -> list[Row]:
    """All rows in a file's content, read as a dataclass or a msgspec.Struct of the fields that are needed. Raises
    DamagedError, also where a row is there twice."""
    decoder = msgspec.json.Decoder(row_type)
    try:
        rows = decoder.decode_lines(content)
    except NO_JSON:
        lines = enumerate(content.split(b"\n"), 1)
        rows = [_row(line, decoder, row_type, path, number) for number, line in lines if line.strip()]
    return _once(rows, path)


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """All rows of a JSON lines file; an absent file has none. Raises DamagedError, also where a row is there twice."""
    return _once(list(iterate_rows(path, row_type)), path) if path.exists() else []


def _once(rows: list[Row], path: Path) -> list[Row]:
    """The rows, each of which has a name of its own."""
    told = [name for name in ("id", "sample", "judge", "part") if rows and hasattr(rows[0], name)]
    if told:
        places: dict[Any, int] = {}
        for number, name in enumerate(map(attrgetter(*told), rows), 1):
            _refuse_again(places, name, number, path)
    return rows


def _refuse_again(places: dict[Any, int], name: Any, number: int, path: Path) -> None:
    if (before := places.setdefault(name, number)) != number:
        raise DamagedError(path, f"the row of line {before} again, {name!r}", number)


def repair_rows(path: Path) -> int:
    """Cut off a last line without its newline, torn by a kill. Returns the number of bytes removed."""
    if not path.exists():
        return 0
    if path.is_symlink():
        raise DamagedError(path, "is a link, which may lead outside of the run", remedy="put the file itself there")
    with opened(path) as file:
        size = file.seek(0, os.SEEK_END)
        keep, block = size, 1 << 16
        while keep > 0:
            start = max(0, keep - block)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
    if keep < size:  # a whole file keeps its time of change
        os.truncate(path, keep)
    return size - keep


def append_rows(path: Path, rows: Iterable[Any], by: str = "") -> None:
    """Append rows in one write of whole lines, flushed to disk; on an error, such as a full disk, none of them.

    A row whose last field is `checksum` gets one, of the row and of `by`, which says who wrote it.
    """
    append(path, b"".join(_sealed(encode(row).encode(), by) + b"\n" for row in rows))


def _sealed(line: bytes, by: str) -> bytes:
    body, seal, _ = line.rpartition(_SEAL)
    return body + seal + _sum(body, by) + b'"}' if seal else line


def _sum(body: bytes, by: str) -> bytes:
    return hashlib.sha256(by.encode() + body).hexdigest()[:16].encode()


def unchanged(line: bytes, by: str = "") -> bool:
    """Whether a line is as `append_rows` wrote it; also where it has no checksum, as an older version's."""
    body, seal, told = line.rpartition(_SEAL)
    return not seal or told[:1] == b'"' or told[:16] == _sum(body, by)


def sort_rows(path: Path, places: Mapping[tuple[str, int], int]) -> None:
    """Put the rows of a generations file in order of `places` by (id, sample), as `sort_lines` does."""
    named = msgspec.json.Decoder(_Named)

    def place(line: bytes) -> int:
        row = named.decode(line)
        return places[row.id, row.sample]

    sort_lines(path, place)


def sort_lines(path: Path, place: Callable[[bytes], int]) -> None:
    """Put a file's lines in order of their `place`, as they are.

    Only where each line stands is held in memory, not the lines. A file that is in order is left alone.
    """
    if not path.exists():
        return
    places, starts = array("q"), array("q", [0])
    with opened(path) as lines:
        for line in lines:
            places.append(place(line) if line.strip() else -1)
            starts.append(starts[-1] + len(line))
    if all(place <= following for place, following in pairwise(places)):
        return
    with opened(path) as source, replacing(path) as target:
        for number in sorted(range(len(places)), key=places.__getitem__):
            source.seek(starts[number])
            target.write(source.read(starts[number + 1] - starts[number]))


class _Named(msgspec.Struct):
    """What tells one generation from another."""

    id: str
    sample: int = 0


_EDITED = (Generation, _Named)
"""Rows that a person may change; whoever judges them says so."""


def named_lines(path: Path) -> Iterator[tuple[tuple[str, int], bytes]]:
    """(id, sample) and line of each whole row of a generations file, which another process may be writing; absent has
    none."""
    if not path.exists():
        return
    decoder, places = msgspec.json.Decoder(_Named), dict[tuple[str, int], int]()
    with opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            if not line.strip():
                continue
            row = _row(line, decoder, _Named, path, number)
            _refuse_again(places, (row.id, row.sample), number, path)
            yield (row.id, row.sample), line


def write_rows(path: Path, rows: Iterable[Any], by: str = "") -> None:
    """Write a JSON lines file whole, row by row: a reader sees the old file or the new one, never half."""
    with replacing(path) as file:
        for row in rows:
            line = encode(row).encode()  # a number may come back in another form, as 1 and 1.0
            file.write((line if unchanged(line, by) else _sealed(line, by)) + b"\n")
