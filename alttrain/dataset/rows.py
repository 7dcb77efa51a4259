"""Raw rows of a JSON, JSON lines, CSV, TSV or Parquet file, each with the place it stands at, for error messages.

A text file whose name ends in .gz is inflated. CSV and TSV are read with their quoted newlines kept, a byte-order mark
skipped.
"""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

_LONGEST_CELL = 1 << 27  # characters of a CSV cell; a runaway trace passes the csv module's own limit of 128 K


def read_raw(path: Path, rows_at: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(place, row) of every row. Raises FileNotFoundError, or ValueError naming file and line for a malformed row.

    `rows_at` is the key of the rows in a JSON file that is an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such data file")
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    readers: dict[str, Callable[[Path, str], Iterator[tuple[str, dict[str, Any]]]]]
    readers = {
        "jsonl": _jsonl,
        "json": partial(_json, rows_at=rows_at),
        "csv": _csv,
        "tsv": partial(_csv, delimiter="\t"),
    }
    if kind == "parquet" and path.suffix != ".gz":
        rows = list(_parquet(path))
    elif kind in readers:
        rows = list(readers[kind](path, _text(path)))
    else:
        accepted = f"{', '.join(readers)}, each also as .gz, and parquet"
        raise ValueError(f"{path}: unknown kind of data file {kind!r}; accepted: {accepted}")
    if not rows:
        raise ValueError(f"{path}: the file holds no rows")
    return rows


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, the first 16 hex digits. Raises FileNotFoundError where it is none: a device never
    ends, and a pipe never begins.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such data file")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: not readable as UTF-8 text: {error}") from error


def _jsonl(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}:{number}"
            yield place, _object(place, _parse(place, line))


def _json(path: Path, text: str, rows_at: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = _parse(str(path), text)
    if rows_at is not None:
        if not isinstance(rows, dict) or rows_at not in rows:
            keys = ", ".join(rows) if isinstance(rows, dict) else f"a {type(rows).__name__}"
            raise ValueError(f"{path}: expected a JSON object with the rows at {rows_at!r}, found {keys}")
        rows = rows[rows_at]
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a JSON array of rows, found {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        place = f"{path}: row {number}"
        yield place, _object(place, row)


def _csv(path: Path, text: str, delimiter: str = ",") -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        for row in reader:
            place = f"{path}:{reader.reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{place}: the row has not as many cells as the header has columns")
            yield place, dict(row)
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.reader.line_num}: malformed CSV: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path).read()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path}: row {number}", row


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f" (line {error.lineno})" if error.lineno > 1 else ""
        raise ValueError(f"{place}: malformed JSON{line}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(f"{place}: malformed JSON: nested too deeply") from error
    except ValueError as error:  # a number of very many digits
        raise ValueError(f"{place}: malformed JSON: {error}") from error


def _object(place: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: expected a JSON object, found {type(row).__name__}")
    return row
