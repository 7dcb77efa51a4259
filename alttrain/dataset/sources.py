"""Sources of Examples: the packaged prompts and local files. Seeded, and checked row by row before anything trains.

Reads the packaged `embedded/*.jsonl` or a user's file; writes nothing.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Protocol

from annotated_types import Ge, Gt

from alttrain.dataset.rows import content_hash, read_raw
from alttrain.records import Example, build

FIELDS = ("id", "prompt", "label", "category", "phrasing", "answer", "gold")
"""The fields of an Example that a file's columns may fill."""


class ExampleSource(Protocol):
    """Where Examples come from."""

    @property
    def name(self) -> str:
        """The dataset's part of the run's name."""

    def examples(self, seed: int | None) -> list[Example]:
        """All examples, in an order that only `seed` decides (None: file order). Raises ValueError naming a bad row."""

    def content(self) -> dict[str, str]:
        """The hash of each file read, for the run's fingerprint."""


def embedded_path(name: str) -> Path:
    """A file packaged with alttrain: "train", "evaluation_harmful", "evaluation_benign" or "short_answer"."""
    return Path(str(resources.files("alttrain.dataset") / "embedded" / f"{name}.jsonl"))


@dataclass(frozen=True)
class EmbeddedPrompts:
    """The packaged training prompts; `amounts` cuts a group to so many rows, stratified by category and phrasing.

    Groups are "harmful" (12 hazard categories), "borderline", and "benign" (the other harmless categories); a group
    that `amounts` does not name, or names with None, is taken whole.
    """

    name: str
    amounts: Mapping[str, Annotated[int, Ge(0)] | None] = field(default_factory=dict)

    def examples(self, seed: int | None) -> list[Example]:
        """The chosen prompts, shuffled by `seed`. Raises ValueError for an unknown group or one with too few rows."""
        path = embedded_path("train")
        groups: dict[str, list[Example]] = defaultdict(list)
        for example in examples_from(path, {}, {}, {}):
            groups["borderline" if example.category == "borderline" else example.label].append(example)
        for group, amount in self.amounts.items():
            if group not in groups:
                raise ValueError(f"dataset.amounts.{group}: no such group; accepted: {', '.join(groups)}")
            if amount is None:
                continue
            if amount > len(groups[group]):
                raise ValueError(f"dataset.amounts.{group}={amount}: the group has only {len(groups[group])} prompts")
            groups[group] = stratified(groups[group], amount, seed)
        return shuffled([example for group in groups.values() for example in group], seed)

    def content(self) -> dict[str, str]:
        """Hash of the packaged file."""
        return {"train": content_hash(embedded_path("train"))}


@dataclass(frozen=True)
class LocalFile:
    """A user's JSON, JSON lines or CSV file. `columns` maps our field names to the file's, `constants` fills the rest.

    `where` keeps only rows whose column equals a value. Rows need a prompt and a label; ids default to the row's place.
    """

    name: str
    path: str
    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    limit: Annotated[int, Gt(0)] | None = None

    def examples(self, seed: int | None) -> list[Example]:
        """The rows, shuffled by `seed` before `limit` cuts them; with no seed in file order."""
        return shuffled(examples_from(Path(self.path), self.columns, self.constants, self.where), seed)[: self.limit]

    def content(self) -> dict[str, str]:
        """Hash of the file."""
        return {Path(self.path).name: content_hash(Path(self.path))}


def embedded_rows(file: str, limit: Annotated[int, Gt(0)] | None = None) -> LocalFile:
    """A packaged file as a source of its own."""
    return LocalFile(name=file, path=str(embedded_path(file)), limit=limit)


def shuffled(rows: list[Example], seed: int | None) -> list[Example]:
    """The rows in an order that only `seed` decides; with no seed as they are."""
    order = list(rows)
    if seed is not None:
        random.Random(f"order-{seed}").shuffle(order)
    return order


def examples_from(
    path: Path, columns: Mapping[str, str], constants: Mapping[str, str], where: Mapping[str, str]
) -> list[Example]:
    """Examples of a file's rows in file order. Raises ValueError naming file, line and field of the first bad row."""
    unknown = sorted((columns.keys() | constants.keys()) - set(FIELDS))
    if unknown:
        raise ValueError(f"{path}: columns or constants name {unknown[0]!r}; accepted fields: {', '.join(FIELDS)}")
    examples: list[Example] = []
    seen: dict[str, str] = {}
    for number, (place, raw) in enumerate(read_raw(path), 1):
        for column in where:
            if column not in raw:
                raise ValueError(f"{place}: no column {column!r} to filter by; columns: {', '.join(raw)}")
        if any(raw[column] != value for column, value in where.items()):
            continue
        example = build(_fields(raw, columns, constants, place, f"{path.stem}-{number}"), Example, place)
        if not example.prompt.strip():
            raise ValueError(f"{place}: the prompt is empty")
        if re.search("[\ud800-\udfff]", example.prompt):
            raise ValueError(f"{place}: the prompt holds half a surrogate pair, which is no character")
        if example.id in seen:
            raise ValueError(f"{place}: id {example.id!r} stands already at {seen[example.id]}; ids must be unique")
        seen[example.id] = place
        examples.append(example)
    if not examples:
        raise ValueError(f"{path}: no row passes the filter {dict(where)}")
    return examples


def _fields(
    raw: Mapping[str, Any], columns: Mapping[str, str], constants: Mapping[str, str], place: str, default_id: str
) -> dict[str, Any]:
    """The fields of an Example in a raw row: mapped columns first, then constants, then columns of the same name."""
    fields: dict[str, Any] = {"id": default_id, "source": place.rpartition("/")[2]}
    fields |= {name: raw[name] for name in FIELDS if name in raw}
    fields |= constants
    for name, column in columns.items():
        if column not in raw:
            raise ValueError(f"{place}: missing field {column!r} (the column for {name}); columns: {', '.join(raw)}")
        fields[name] = raw[column]
    if "gold" in fields and isinstance(fields["gold"], str):
        fields["gold"] = [fields["gold"]] if fields["gold"] else []
    if not isinstance(fields["id"], str):
        fields["id"] = str(fields["id"])
    return fields


def stratified(rows: Sequence[Example], amount: int, seed: int | None) -> list[Example]:
    """`amount` rows with the shares of categories, and in each category of phrasings, that all rows have.

    A larger amount contains every smaller one.
    """
    return _interleaved(rows, lambda row: row.category, lambda group: _by_phrasing(group, seed))[:amount]


def _by_phrasing(rows: Sequence[Example], seed: int | None) -> list[Example]:
    return _interleaved(shuffled(list(rows), seed), lambda row: row.phrasing, list)


def _interleaved(
    rows: Sequence[Example], key: Callable[[Example], str], order: Callable[[Sequence[Example]], list[Example]]
) -> list[Example]:
    """All rows, the groups that `key` makes mixed in proportion to their sizes, each group in its own `order`."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    ranked = [
        ((index + 0.5) / len(members), name, row)
        for name, members in groups.items()
        for index, row in enumerate(order(members))
    ]
    return [row for _, _, row in sorted(ranked, key=lambda entry: entry[:2])]
