"""Sources of rows: a file on disk, or a data set on the hub with its upstream file, read through a column map.

Every row is checked before anything trains. Reads the packaged `embedded/*.jsonl`, a user's file, `data_dir/file`, or
the hub's cache; writes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Protocol

from annotated_types import Gt

from alttrain.dataset import hub as hub_room
from alttrain.dataset.columns import WHOLE, Columns, Scalar
from alttrain.dataset.rows import content_hash, read_raw
from alttrain.dataset.strata import shuffled
from alttrain.records import Example, Label, Rejected, Shape


class ExampleSource(Protocol):
    """Where Examples come from."""

    @property
    def name(self) -> str:
        """The name of the set."""

    def examples(self, seed: int | None) -> list[Example]:
        """All examples, in an order that only `seed` decides (None: file order). Raises ValueError naming a bad row."""

    def content(self) -> dict[str, str]:
        """The hash of each file read, for the run's fingerprint."""


@dataclass(frozen=True)
class Reading:
    """What one reading of a source gave: `origin` says of what (a file's name, or a hub id with its commit)."""

    examples: list[Example]
    rejected: list[Rejected]
    origin: str


class RowSource(ExampleSource, Protocol):
    """A source that also tells which rows it could not use."""

    def read(self, seed: int | None) -> Reading:
        """The rows that `examples(seed)` gives, in file order, and the rows that gave none."""


def embedded_path(name: str) -> Path:
    """A file packaged with alttrain: "train", "evaluation_harmful", "evaluation_benign" or "short_answer"."""
    return Path(str(resources.files("alttrain.dataset") / "embedded" / f"{name}.jsonl"))


@dataclass(frozen=True)
class Rows:
    """A set of rows in a file, on the hub, or both.

    `path` is a file of the user's own. Otherwise the set is `hub` (id, `config`, `split`, `revision`; null is the hub's
    current one) and, where `data_dir` is set, its upstream file `data_dir/file`, which must then be there. A row needs
    a prompt and a label; ids default to the row's place. The other parameters are those of `Columns`. A row without a
    usable trace is left out by name; a malformed one is an error.

    A * in the name of `file` stands for all files that match, in the order of their names; each row then has a column
    `part`, the name of its file without its ending. `first` keeps the first rows of the file that pass the filter;
    `sample` those that Hugging Face's `shuffle(sample_seed)` would put first among them, in file order. `rows_at` is
    the key of the rows in a JSON file that is an object. `count` is how many usable rows the published set has.
    """

    name: str
    path: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    file: str | None = None
    data_dir: str | None = None
    columns: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, Scalar | Sequence[Scalar]] = field(default_factory=dict)
    labels: Mapping[str, Label] = field(default_factory=dict)
    extract: Mapping[str, str] = field(default_factory=dict)
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    erase: Mapping[str, str] = field(default_factory=dict)
    thought_tags: Sequence[str] = ()
    answer_tags: Sequence[str] = ()
    shapes: Sequence[Shape] = WHOLE
    golds: Sequence[str] = ()
    choices: Sequence[str] = ()
    choice_seed: int | None = None
    first: Annotated[int, Gt(0)] | None = None
    sample: Annotated[int, Gt(0)] | None = None
    sample_seed: int = 42
    limit: Annotated[int, Gt(0)] | None = None
    rows_at: str | None = None
    count: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.hub or self.file):
            raise ValueError(f"rows {self.name}: give either path, or hub and file, not both and not neither")
        self._map.check(f"rows {self.name}")

    def examples(self, seed: int | None) -> list[Example]:
        """The usable rows, shuffled by `seed` before `limit` cuts them; with no seed in file order."""
        return shuffled(self._all().examples, seed)[: self.limit]

    def read(self, seed: int | None) -> Reading:
        """The rows that `examples` gives, in file order, and those left out."""
        reading = self._all()
        chosen = {example.id for example in shuffled(reading.examples, seed)[: self.limit]}
        return replace(reading, examples=[example for example in reading.examples if example.id in chosen])

    def _all(self) -> Reading:
        """All rows, read once by a process as long as the files stay as they are: a sweep's jobs share them."""
        path = self._path()
        stats = [(str(file), file.stat()) for file in self._there(path) if file.is_file()] if path else []
        key = repr((self, [(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats]))
        if key not in _READ:
            if len(_READ) == KEPT:
                del _READ[next(iter(_READ))]
            _READ[key] = self._read()
        return _READ[key]

    def _read(self) -> Reading:
        examples: list[Example] = []
        rejected: list[Rejected] = []
        seen: dict[str, str] = {}
        origin, rows = self._rows()
        columns = self._map
        meant = (row for row in rows if columns.meant(row[3], row[0]))
        for place, source, default_id, raw in islice(meant, self.first):
            found = columns.example(raw, place, default_id, source)
            if found.id in seen:
                raise ValueError(f"{place}: id {found.id!r} stands already at {seen[found.id]}; ids must be unique")
            seen[found.id] = place
            if isinstance(found, Rejected):
                rejected.append(found)
            else:
                examples.append(found)
        if not examples:
            why = f"; the first of {len(rejected)} left out: {rejected[0].reason}" if rejected else ""
            wanted = f"passes the filter {dict(self.where)}" if self.where else "can be used"
            raise ValueError(f"{origin}: no row {wanted}{why}")
        if self.sample is not None:
            examples = [examples[place] for place in self._sampled(len(examples), origin)]
        return Reading(examples, rejected, origin if self._path() is None else self._file)

    def _sampled(self, rows: int, origin: str) -> list[int]:
        """Places of the sampled rows. The order is that of `Dataset.shuffle`, which is numpy's default generator's."""
        import numpy

        if self.sample is None or self.sample > rows:
            raise ValueError(f"rows {self.name}: sample={self.sample}: accepted: up to the {rows} rows of {origin}")
        return sorted(numpy.random.default_rng(self.sample_seed).permutation(rows)[: self.sample].tolist())

    def content(self) -> dict[str, str]:
        """Hash of each file, or the hub's commit."""
        path = self._path()
        if path is None:
            return {f"{self.hub}:{self.split}": self._hub_rows().content_hash()}
        return {file.name: content_hash(file) for file in self._there(path)}

    @property
    def _file(self) -> str:
        """The file as it is called wherever it lies."""
        return Path(self.path).name if self.path else str(self.file)

    @property
    def _map(self) -> Columns:
        texts = (self.extract, self.slices, self.erase, self.thought_tags, self.answer_tags, self.shapes)
        asked = (self.golds, self.choices, self.choice_seed)
        return Columns(self.columns, self.constants, self.where, self.labels, *texts, *asked)

    def _rows(self) -> tuple[str, Iterator[tuple[str, str, str, dict[str, Any]]]]:
        """What is read, and each row's place, source, default id and values."""
        path = self._path()
        if path is None:
            found = self._hub_rows()
            stem = str(self.hub).rpartition("/")[2]
            places = ((f"{self.hub}:{self.split}: row {n}", n, raw) for n, raw in enumerate(found.rows, 1))
            rows = ((place, place, f"{stem}-{number}", raw) for place, number, raw in places)
            return f"{self.hub}@{found.commit or self.revision or 'unknown'}", rows
        files = self._there(path)
        stems = {file: file.name.removesuffix(".gz").rpartition(".")[0] for file in files}
        raws = (
            (stems[file], n, place, raw)
            for file in files
            for n, (place, raw) in enumerate(read_raw(file, self.rows_at), 1)
        )
        below, parts = f"{path.parent}/", "*" in path.name
        return str(path), (
            (place, place.removeprefix(below), f"{stem}-{n}", {**raw, "part": stem} if parts else raw)
            for stem, n, place, raw in raws
        )

    def _path(self) -> Path | None:
        """The file to read, or None for the hub."""
        if self.path:
            return Path(self.path)
        if self.data_dir is None:
            return None
        if self.file is None:
            raise ValueError(f"rows {self.name}: data_dir={self.data_dir} is set and file is not; name the file there")
        return Path(self.data_dir) / self.file

    def _there(self, path: Path) -> list[Path]:
        """The file, or those that a * in its name stands for."""
        in_data_dir = self.data_dir is not None and self.path is None
        if in_data_dir and "*" in path.name:
            files = sorted(file for file in path.parent.glob(path.name) if file.is_file())
        else:
            files = [path]
        if in_data_dir and not (files and files[0].is_file()):
            other = f", or set data_dir=null to read {self.hub} from the hub" if self.hub else ""
            raise FileNotFoundError(f"{path}: no such data file (data_dir={self.data_dir}); put it there{other}")
        return files

    def _hub_rows(self) -> hub_room.HubRows:
        if self.hub is None:
            raise ValueError(f"rows {self.name}: not on the hub; set data_dir to the folder that holds {self.file}")
        remedy = f"set data_dir to a folder that holds {self.file}, or " if self.file else ""
        return hub_room.load(self.hub, self.config, self.split, self.revision, f"{remedy}read it online once")


def jailbreak_artifacts(
    attack: str,
    setting: str,
    target: str,
    data_dir: str | None,
    limit: Annotated[int, Gt(0)] | None = None,
    count: Annotated[int, Gt(0)] | None = None,
) -> Rows:
    """Prompts that an attack found against a target model, from a copy of github.com/JailbreakBench/artifacts.

    The file is `data_dir`/jbb_artifacts/attack-artifacts/`attack`/`setting`/`target`.json. A behaviour that the attack
    found no prompt for is left out by name.
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


KEPT = 64
"""Readings that a process keeps."""
_READ: dict[str, Reading] = {}


def embedded_rows(file: str, limit: Annotated[int, Gt(0)] | None = None) -> Rows:
    """A packaged file as a source of its own."""
    return Rows(name=file, path=str(embedded_path(file)), limit=limit)
