"""A dataset: a mixture of sources and the seeded selection of rows to train on. Every dropped row is reported.

1. read the sources
2. drop prompts that appear under both labels
3. decontaminate
4. take the wanted number of rows of each group in its seeded order, with categories and phrasings mixed in proportion,
   and skip near-duplicates

The order covers all rows read, so a dropped row is replaced by the next one and the others keep their places. Held-out
rows come from the end of the order, so they stay the same when the amounts grow. Writes nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, get_args

from annotated_types import Ge, Gt, Le, Lt

from alttrain.dataset.columns import Scalar
from alttrain.dataset.similarity import DEFAULT, How, NearDuplicateFilter, Words, contaminated, said
from alttrain.dataset.sources import Reading, Rows, RowSource, shuffled
from alttrain.records import Example, Label

LABELS: tuple[Label, ...] = get_args(Label)
Amounts = Mapping[str, Annotated[int, Ge(0)] | None]
HeldOut = Annotated[int, Ge(0)] | Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True)
class Selection:
    """The selected rows in seeded order, the held-out rows, and a JSON report on every row read."""

    examples: list[Example]
    held_out: list[Example]
    report: dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """A mixture of sources and how many rows to take.

    - `amounts`          group -> number of rows; null, or a group that is not named, takes all. A row's group is its
                         category if `amounts` names it, else its source, else its label
    - `size`, `harmful_share`  instead of amounts: `size` rows, this share of them harmful; groups are then the labels
    - `near_duplicates`  similarity to an already taken row of the same label from which a row is skipped (similar
                         prompts with different labels are both kept)
    - `decontaminate`    ways to match a benchmark's prompts; `ngram` is the number of words for the way of that name
    - `held_out`         number of rows to hold out, or share of those taken; in the same proportions, in addition to
                         the amounts

    With several sources, ids become `source/id`.
    """

    name: str
    sources: Mapping[str, RowSource]
    amounts: Amounts = field(default_factory=dict)
    size: Annotated[int, Gt(0)] | None = None
    harmful_share: Annotated[float, Ge(0), Le(1)] | None = None
    near_duplicates: Annotated[float, Gt(0), Le(1)] | None = None
    decontaminate: Sequence[How] = DEFAULT
    ngram: Annotated[int, Gt(1)] = 8
    held_out: HeldOut = 0
    _selected: dict[Any, Selection] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError(f"dataset {self.name}: no sources; name at least one")
        if (self.size is None) != (self.harmful_share is None):
            raise ValueError("dataset.size and dataset.harmful_share go together; give both or neither")
        if self.size is not None and any(amount is not None for amount in self.amounts.values()):
            raise ValueError("dataset.size and dataset.amounts both say how many rows; leave one of them null")

    def examples(self, seed: int | None) -> list[Example]:
        """Return the selected rows, without decontamination."""
        return self.select(seed, {}).examples

    def content(self) -> dict[str, str]:
        """Return the hash of each source's file, or its commit."""
        return {
            f"{name}/{key}": digest for name, source in self.sources.items() for key, digest in source.content().items()
        }

    def select(self, seed: int | None, against: Mapping[str, Sequence[str]]) -> Selection:
        """Select the rows to train on, none of them in a benchmark of `against` (name -> prompts), once for each.

        Raises ValueError for an unknown group, or if a group has too few rows left.
        """
        key = (seed, *((name, *prompts) for name, prompts in against.items()))
        if key not in self._selected:
            self._selected[key] = self._select(seed, against)
        return self._selected[key]

    def _select(self, seed: int | None, against: Mapping[str, Sequence[str]]) -> Selection:
        readings = {name: source.read(seed) for name, source in self.sources.items()}
        rows, source_of, dropped = self._combined(readings)
        if conflicting := _under_both_labels(rows):  # neither label can be trusted
            dropped["the prompt stands under both labels"] = conflicting
        turns = [(row.id, turn) for row in rows for turn in (*row.turns, row.prompt)]
        matches = contaminated(turns, against, self.decontaminate, self.ngram)
        excluded = {*conflicting, *(match.id for match in matches)}

        distinct = NearDuplicateFilter(self.near_duplicates)
        groups: list[tuple[str, int | None, list[Example], list[Example], list[Example]]] = []
        for name, members in self._groups(rows, source_of).items():
            order = [row for row in stratified(members, len(members), seed) if row.id not in excluded]
            wanted = self.amount_for(name)
            taken = distinct.first(order, wanted)
            if wanted is not None and len(taken) < wanted:
                setting = f"amounts.{name}={wanted}" if self.size is None else f"size={self.size}"
                left_out = {"decontaminated or under both labels": len(members) - len(order)}
                left_out["near-duplicates"] = len(order) - len(taken)
                note = "".join(f"; {count} rows are {reason}" for reason, count in left_out.items() if count)
                raise ValueError(f"dataset.{setting}: {name} has only {len(taken)} prompts, {wanted} are wanted{note}")
            groups.append((name, wanted, members, order, taken))
        sizes = [len(taken) for *_, taken in groups]
        amount = self.held_out if isinstance(self.held_out, int) else int(self.held_out * sum(sizes) + 0.5)
        examples: list[Example] = []
        held_out: list[Example] = []
        for (name, wanted, members, order, taken), count in zip(groups, proportional(amount, sizes), strict=True):
            if wanted is None:  # all rows: the last of those taken are held out
                last_rows = taken[len(taken) - count :]
            else:
                last = order.index(taken[-1]) if taken else -1
                last_rows = distinct.first(order[:last:-1], count)
            if len(last_rows) < count:
                raise ValueError(
                    f"dataset.held_out={self.held_out}: {count} rows of {name} are to be held out, but only "
                    f"{len(last_rows)} are left besides those chosen; lower it, or the amounts"
                )
            ids = {row.id for row in taken} - {row.id for row in last_rows}
            ordered = members if wanted is None else taken  # a group taken whole stays in file order
            examples += [row for row in ordered if row.id in ids]
            held_out += last_rows
        report = {
            "read": {name: len(reading.examples) + len(reading.rejected) for name, reading in readings.items()},
            "origin": {name: reading.origin for name, reading in readings.items()},
            "dropped": dict(dropped),
            "decontamination": [asdict(match) for match in matches],
            "near_duplicates": [
                {"id": row, "of": taken_row, "similarity": round(score, 3)}
                for row, taken_row, score in distinct.skipped
            ],
            "written": len(examples),
            "labels": dict(Counter(row.label for row in examples)),
            "categories": dict(sorted(Counter(row.category for row in examples).items())),
            "sources": dict(Counter(source_of[row.id] for row in examples)),
            "held_out": [row.id for row in held_out],
        }
        return Selection(shuffled(examples, seed), held_out, report)

    def _combined(self, readings: Mapping[str, Reading]) -> tuple[list[Example], dict[str, str], dict[str, list[str]]]:
        """Return all rows with their ids in this dataset, id -> source, and reason -> ids of rejected rows."""
        rows: list[Example] = []
        source_of: dict[str, str] = {}
        dropped: dict[str, list[str]] = defaultdict(list)
        for name, reading in readings.items():
            prefix = "" if len(self.sources) == 1 else f"{name}/"
            source_rows = [replace(row, id=prefix + row.id) for row in reading.examples]
            rows += source_rows
            source_of |= dict.fromkeys((row.id for row in source_rows), name)
            for rejected in reading.rejected:
                dropped[rejected.reason].append(prefix + rejected.id)
        return rows, source_of, dropped

    def _groups(self, rows: Sequence[Example], source_of: Mapping[str, str]) -> dict[str, list[Example]]:
        """Return the rows of each group, in order of first appearance."""
        categories = sorted({row.category for row in rows} - {""})
        known = dict.fromkeys([*(row.label for row in rows), *categories, *self.sources])
        for group, amount in self.amounts.items():
            if group not in known and (amount or group not in LABELS):
                raise ValueError(f"dataset.amounts.{group}={amount}: no such group; accepted: {', '.join(known)}")
        groups: dict[str, list[Example]] = defaultdict(list)
        named = self.amounts if self.size is None else {}
        for row in rows:
            groups[next((key for key in (row.category, source_of[row.id]) if key in named), row.label)].append(row)
        for label in LABELS:
            if self.amount_for(label):
                groups.setdefault(label, [])  # so that a lack of its rows is an error
        return groups

    def amount_for(self, group: str) -> int | None:
        """Return the number of rows to take from a group; None takes all."""
        if self.size is None or self.harmful_share is None:
            return self.amounts.get(group)
        harmful = int(self.size * self.harmful_share + 0.5)
        return harmful if group == "harmful" else self.size - harmful


def _under_both_labels(rows: Sequence[Example]) -> list[str]:
    """Return the ids of rows whose words are also those of a row of the other label."""
    prompts = [said(row) or (row.prompt,) for row in rows]  # without words, such as a sign or a picture
    labels: dict[Words, set[Label]] = defaultdict(set)
    for row, prompt in zip(rows, prompts, strict=True):
        labels[prompt].add(row.label)
    return [row.id for row, prompt in zip(rows, prompts, strict=True) if len(labels[prompt]) > 1]


def local_file(
    name: str,
    path: str,
    columns: Mapping[str, str | Sequence[str]],
    constants: Mapping[str, str],
    where: Mapping[str, Scalar | Sequence[Scalar]],
    labels: Mapping[str, Label],
    thought_tags: Sequence[str],
    limit: Annotated[int, Gt(0)] | None,
    amounts: Amounts,
    size: Annotated[int, Gt(0)] | None = None,
    harmful_share: Annotated[float, Ge(0), Le(1)] | None = None,
    near_duplicates: Annotated[float, Gt(0), Le(1)] | None = None,
    decontaminate: Sequence[How] = DEFAULT,
    ngram: Annotated[int, Gt(1)] = 8,
    held_out: HeldOut = 0,
) -> Dataset:
    """Return a dataset from one user file, with the parameters of `Rows` and `Dataset` in one place."""
    column_map: dict[str, Any] = {"columns": columns, "constants": constants, "where": where, "labels": labels}
    sources = {name: Rows(name, path, **column_map, thought_tags=thought_tags, limit=limit)}
    return Dataset(name, sources, amounts, size, harmful_share, near_duplicates, decontaminate, ngram, held_out)


def stratified(rows: Sequence[Example], amount: int, seed: int | None) -> list[Example]:
    """Return `amount` rows in which categories, and phrasings within one, have the same shares as in all rows.

    A larger selection contains every smaller one.
    """

    def by_phrasing(group: Sequence[Example]) -> list[Example]:
        return _interleaved(shuffled(group, seed), lambda row: row.phrasing, list)

    return _interleaved(rows, lambda row: row.category, by_phrasing)[:amount]


def proportional(amount: int, weights: Sequence[int]) -> list[int]:
    """Return `amount` split by weight into integers; the largest remainders are rounded up."""
    total = sum(weights) or 1
    shares = [amount * weight // total for weight in weights]
    remainders = sorted(range(len(weights)), key=lambda index: (-(amount * weights[index] % total), index))
    for index in remainders[: amount - sum(shares)]:
        shares[index] += 1
    return shares


def _interleaved(
    rows: Sequence[Example], key: Callable[[Example], str], order: Callable[[Sequence[Example]], list[Example]]
) -> list[Example]:
    """Return all rows, with the groups of `key`, each in its own `order`, mixed in proportion to their sizes."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    ranked = [
        ((index + 0.5) / len(members), name, row)
        for name, members in groups.items()
        for index, row in enumerate(order(members))
    ]
    return [row for _, _, row in sorted(ranked, key=lambda entry: entry[:2])]
