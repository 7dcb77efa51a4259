"""Sources of rows: a file on disk or a data set on the hub, read through a column map.

Files are JSON, JSON lines, CSV, TSV (each also as .gz) or Parquet. Every row is checked before training starts, and an
error names its place. Hub data sets are read by the `datasets` library, without running their code. Writes nothing.
"""

import csv
import gzip
import hashlib
import io
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

from annotated_types import Gt

from alttrain import hub
from alttrain.dataset.columns import Columns
from alttrain.records import Example, Rejected, build, known_checksum

_LONGEST_CELL = 1 << 27  # characters of a CSV cell; long traces exceed the csv module's own limit of 128 K
_UNREADABLE = (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError)  # as UTF-8 text
_COMMIT = re.compile("[0-9a-f]{40}")

RawRow = tuple[str, dict[str, Any]]  # a row's place, for error messages, and its values
_Row = tuple[str, str, dict[str, Any]]  # a row's place, its id if it has none of its own, and its values


class ExampleSource(Protocol):
    """Where Examples come from."""

    @property
    def name(self) -> str:
        """The name of the set."""

    def examples(self, seed: int | None) -> list[Example]:
        """All examples, shuffled by `seed`; in file order for None. Raises ValueError naming a bad row."""

    def content(self) -> dict[str, str]:
        """The hash of each file read, for the run's fingerprint."""


@dataclass(frozen=True)
class Reading:
    """The rows read from a source. `origin` is the file's name, or the hub id with its commit."""

    examples: list[Example]
    rejected: list[Rejected]
    origin: str


class RowSource(ExampleSource, Protocol):
    """A source that also reports the rows it could not use."""

    def read(self, seed: int | None) -> Reading:
        """The rows of `examples(seed)`, in file order, and the rejected ones."""


@dataclass(frozen=True)
class Rows(Columns):
    """A set of rows in a file, on the hub, or both.

    - `path`           a user file, or
    - `hub`            id of a hub data set, with `config`, `split` and `revision` (None: the current one), and/or
    - `file`           its upstream file, read from `data_dir/file` if `data_dir` is set. A * in the name may match
                       several files, read in order of names; rows then have a column `part`, the file's stem
    - `first`          use only the first rows of the file that pass the filter
    - `sample`         use the rows that Hugging Face's `shuffle(sample_seed)` puts first, in file order
    - `limit`          use this many rows after shuffling by the caller's seed
    - `rows_at`        key of the rows in a JSON file that is an object
    - `header`         the columns' names of a CSV or TSV file that does not begin with them
    - `count`          number of usable rows of the published set

    Every row needs a prompt and a label; ids default to the row's number. A row without a usable trace is rejected by
    name; a malformed row raises ValueError. The other parameters are those of `Columns`.
    """

    name: str
    path: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    file: str | None = None
    data_dir: str | None = None
    first: Annotated[int, Gt(0)] | None = None
    sample: Annotated[int, Gt(0)] | None = None
    sample_seed: int = 42
    limit: Annotated[int, Gt(0)] | None = None
    rows_at: str | None = None
    header: Sequence[str] = ()
    count: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.hub or self.file):
            raise ValueError(f"rows {self.name}: give either path, or hub or file (or these two), and not none")
        if fault := next(self.map_faults(), ""):
            raise ValueError(f"rows {self.name}: {fault}")

    def examples(self, seed: int | None) -> list[Example]:
        """Return the usable rows, shuffled by `seed` before `limit` cuts them; in file order for None."""
        return shuffled(self._all().examples, seed)[: self.limit]

    def read(self, seed: int | None) -> Reading:
        """The rows of `examples(seed)`, in file order, and the rejected ones."""
        reading, ids = self._all(), {example.id for example in self.examples(seed)}
        return replace(reading, examples=[example for example in reading.examples if example.id in ids])

    def content(self) -> dict[str, str]:
        """Return the hash of each file, or the hub's commit, or else the hash of the hub's rows."""
        files = self._files()
        if files:
            return {file.name: content_hash(file) for file in files}
        rows, commit = self._from_hub()
        digest = hashlib.sha256()
        for row in () if commit else rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        return {f"{self.hub}:{self.split}": commit or digest.hexdigest()[:16]}

    def _all(self) -> Reading:
        """Return all rows. A process reads unchanged files once, so that the jobs of a sweep share them."""
        stats = [(str(file), file.stat()) for file in self._files() if file.is_file()]
        key = repr((self, [(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats]))
        if key not in _READ:
            _READ[key] = self._read()
        return _READ[key]

    def _read(self) -> Reading:
        examples: list[Example] = []
        rejected: list[Rejected] = []
        place_of: dict[str, str] = {}
        files = self._files()
        rows: Iterable[_Row]
        if files:
            rows, folder = self._file_rows(files), f"{files[0].parent}/"
            origin = self.path or f"{self.data_dir}/{self.file}"
        else:
            loaded, commit = self._from_hub()
            origin, folder = f"{self.hub}@{commit or 'unknown'}", ""
            stem = str(self.hub).split("/")[-1]
            rows = ((f"{self.hub}:{self.split}: row {n}", f"{stem}-{n}", raw) for n, raw in enumerate(loaded, 1))
        for place, default_id, raw in rows:
            try:
                if not self.passes(raw):
                    continue
                fields = self.convert(raw, default_id, place.removeprefix(folder))
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            example = fields if isinstance(fields, Rejected) else build(fields, Example, place)
            if example.id in place_of:
                raise ValueError(f"{place}: id {example.id!r} is already at {place_of[example.id]}; ids must be unique")
            place_of[example.id] = place
            if isinstance(example, Rejected):
                rejected.append(example)
            else:
                examples.append(example)
            if len(place_of) == self.first:
                break
        if not examples:
            reason = f"; the first of {len(rejected)} left out: {rejected[0].reason}" if rejected else ""
            filters = {**self.where, **self.dates}
            fault = f"passes the filter {filters}" if filters else "can be used"
            raise ValueError(f"{origin}: no row {fault}{reason}")
        if self.sample is not None:
            if self.sample > len(examples):
                accepted = f"accepted: up to the {len(examples)} rows of {origin}"
                raise ValueError(f"rows {self.name}: sample={self.sample}: {accepted}")
            import numpy  # whose default generator orders `datasets.Dataset.shuffle`

            order = numpy.random.default_rng(self.sample_seed).permutation(len(examples))
            examples = [examples[index] for index in sorted(order[: self.sample].tolist())]
        return Reading(examples, rejected, str(self.file or Path(origin).name) if files else origin)

    def _file_rows(self, files: Sequence[Path]) -> Iterator[_Row]:
        for file in files:
            stem = file.name.removesuffix(".gz").rpartition(".")[0]
            part = {"part": stem} if "*" in str(self.file) else {}
            for number, (place, raw) in enumerate(read_raw(file, self.rows_at, self.header), 1):
                yield place, f"{stem}-{number}", raw | part

    def _files(self) -> list[Path]:
        """Return the file, or the files that match a * in its name; none for the hub.

        Raises FileNotFoundError if data_dir lacks it.
        """
        if self.path:
            return [Path(self.path)]
        if self.data_dir is None:
            return []
        if self.file is None:
            raise ValueError(f"rows {self.name}: data_dir={self.data_dir} is set and file is not; name the file there")
        path = Path(self.data_dir) / self.file
        paths = path.parent.glob(path.name) if "*" in path.name else [path]
        files = sorted(file for file in paths if file.is_file())
        if not files:
            alternative = f", or set data_dir=null to read {self.hub} from the hub" if self.hub else ""
            raise FileNotFoundError(f"{path}: no such data file (data_dir={self.data_dir}); put it there{alternative}")
        return files

    def _from_hub(self) -> tuple[Iterable[dict[str, Any]], str]:
        """Return the rows of the split on the hub, and their commit ("" if they are not in the cache of `datasets`).

        Raises ValueError without `hub`, and FileNotFoundError, in one line, if the data set cannot be read, or not at
        its `revision`.
        """
        if self.hub is None:
            raise ValueError(f"rows {self.name}: not on the hub; set data_dir to the folder that holds {self.file}")
        import datasets

        try:
            with hub.offline_if_unreachable():
                offline = datasets.config.HF_HUB_OFFLINE
                loaded = datasets.load_dataset(
                    self.hub, self.config, split=self.split, revision=self.revision, keep_in_memory=False
                )  # in memory it would not say which commit it is of
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # OSError: no network, gated, no set
            fault = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            remedy = f"set data_dir to a folder that holds {self.file}, or " if self.file else ""
            raise FileNotFoundError(
                f"{self.hub}: cannot be read from the hub: {fault}; {remedy}read it online once"
            ) from error
        folders = [Path(file["filename"]).parent.name for file in loaded.cache_files]  # named by the commit
        commit = next(filter(_COMMIT.fullmatch, folders), "")
        names_commit = bool(commit) and _COMMIT.fullmatch(self.revision or "")
        if self.revision not in (None, commit) and (offline or names_commit):
            # out of reach, `datasets` takes what it cached last, of any revision
            raise FileNotFoundError(
                f"{self.hub}: revision={self.revision} cannot be read from the hub, and of its cache `datasets` takes "
                f"the commit that was cached last, {commit or 'unknown'}; read it online with HF_DATASETS_CACHE set to "
                f"a folder of its own, or set revision={commit or 'null'}"
            )
        return cast(Iterable[dict[str, Any]], loaded), commit


_READ: dict[str, Reading] = {}  # what this process has read, by the source and the state of its files


def shuffled(rows: Sequence[Example], seed: int | None) -> list[Example]:
    """Return the rows in an order that depends only on `seed`; unchanged for None."""
    order = list(rows)
    if seed is not None:
        random.Random(f"order-{seed}").shuffle(order)
    return order


def embedded_rows(file: str, limit: Annotated[int, Gt(0)] | None = None) -> Rows:
    """Return packaged rows: "train", "evaluation_harmful", "evaluation_benign", "short_answer", "development_..."."""
    return Rows(file, str(resources.files("alttrain.dataset") / "embedded" / f"{file}.jsonl"), limit=limit)


def jailbreak_artifacts(
    attack: str,
    setting: str,
    target: str,
    data_dir: str | None,
    limit: Annotated[int, Gt(0)] | None = None,
    count: Annotated[int, Gt(0)] | None = None,
) -> Rows:
    """Return the prompts that an attack found against a target model, in a copy of github.com/JailbreakBench/artifacts.

    The file is `data_dir`/jbb_artifacts/attack-artifacts/`attack`/`setting`/`target`.json. A behaviour for which the
    attack found no prompt is rejected by name.
    """
    return Rows(
        name=f"{attack}_{target}",
        file=f"jbb_artifacts/attack-artifacts/{attack}/{setting}/{target}.json",
        data_dir=data_dir,
        columns={"id": "index", "prompt": "prompt", "goal": "goal", "category": "category"},
        constants={"label": "harmful"},
        limit=limit,
        rows_at="jailbreaks",
        count=count,
    )


def content_hash(path: Path) -> str:
    """Return 16 hex digits of a file's SHA-256. Raises FileNotFoundError if it is not a file (a device, a pipe)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such data file")
    return str(known_checksum(path))[:16]


def read_raw(path: Path, rows_at: str | None = None, header: Sequence[str] = ()) -> Iterator[RawRow]:
    """Yield (place, row) of every row of a data file; `rows_at` and `header` are those of `Rows`.

    Only one line of a JSON lines file, which may be large, is in memory. Raises FileNotFoundError, or ValueError that
    names the file and the line of a malformed row.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such data file")
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    rows: Iterable[tuple[str, Any]]
    if kind == "parquet" and path.suffix != ".gz":
        rows = _parquet(path)
    elif kind == "jsonl":
        lines = enumerate(_lines(path), 1)
        rows = ((f"{path}:{number}", _parse(f"{path}:{number}", line)) for number, line in lines if line.strip())
    elif kind == "json":
        rows = _json(path, "".join(_lines(path)), rows_at)
    elif kind in ("csv", "tsv"):
        rows = _csv(path, "".join(_lines(path)), "," if kind == "csv" else "\t", header)
    else:
        accepted = "jsonl, json, csv, tsv, each also as .gz, and parquet"
        raise ValueError(f"{path}: unknown kind of data file {kind!r}; accepted: {accepted}")
    place = ""
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: expected a JSON object, found {type(row).__name__}")
        yield place, row
    if not place:
        raise ValueError(f"{path}: the file holds no rows")


def _lines(path: Path) -> Iterator[str]:
    """Yield a text file's lines, without a byte-order mark. Only "\\n" ends a line."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except _UNREADABLE as error:
        raise ValueError(f"{path}: not readable as UTF-8 text: {error}") from error


def _json(path: Path, text: str, rows_at: str | None) -> list[tuple[str, Any]]:
    rows = _parse(str(path), text)
    if rows_at is not None:
        if not isinstance(rows, dict) or rows_at not in rows:
            keys = ", ".join(rows) if isinstance(rows, dict) else f"a {type(rows).__name__}"
            raise ValueError(f"{path}: expected a JSON object with the rows at {rows_at!r}, found {keys}")
        rows = rows[rows_at]
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a JSON array of rows, found {type(rows).__name__}")
    return [(f"{path}: row {number}", row) for number, row in enumerate(rows, 1)]


def _csv(path: Path, text: str, delimiter: str, header: Sequence[str]) -> Iterator[RawRow]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(text, newline=""), header or None, strict=True, delimiter=delimiter)
    try:
        _refuse_twice(path, reader.fieldnames or ())
        for row in reader:
            if header and list(row.values()) == list(header):
                raise ValueError(f"{path} begins with its columns' names; leave `header` of its rows empty")
            place = f"{path}:{reader.reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{place}: the row has not as many cells as the header has columns")
            yield place, dict(row)
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.reader.line_num}: malformed CSV: {error}") from error


def _parquet(path: Path) -> list[RawRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path).read()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: not readable as Parquet: {str(error).splitlines()[0]}") from error
    _refuse_twice(path, table.column_names)
    return [(f"{path}: row {number}", row) for number, row in enumerate(table.to_pylist(), 1)]


def _refuse_twice(place: object, names: Sequence[str]) -> None:
    """Raise ValueError if a name occurs twice: the last value would replace the others."""
    if twice := next((name for name, count in Counter(names).items() if name and count > 1), None):
        raise ValueError(f"{place}: {twice!r} occurs twice; give each column a name of its own")


def _parse(place: str, text: str) -> Any:
    twice: list[str] = []

    def row_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(row := dict(pairs)) < len(pairs):
            twice.extend(name for name, _ in pairs)
        return row

    try:
        parsed = json.loads(text, object_pairs_hook=row_of)
    except (ValueError, RecursionError) as error:  # also a number of very many digits
        line = getattr(error, "lineno", 1)
        fault = getattr(error, "msg", error)
        raise ValueError(f"{place}: malformed JSON{f' (line {line})' if line > 1 else ''}: {fault}") from error
    _refuse_twice(place, twice)
    return parsed
