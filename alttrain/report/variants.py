"""Runs that differ in nothing but their seed, as one: what a row of a table is made of.

Reads, beside the judged benchmarks, fingerprint.json (settings), rewrite.json (examples) and train.json of each run.
A run's method, its label, its place and its tables are run.json's; one without a method is called by its rewrite.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alttrain.records import Rewritten, Trained, read_sealed
from alttrain.report.runs import Evaluation, changes

Made = tuple[str, str, str]
"""How a number was made: protocol, benchmark, and the hash of all that shapes it."""
NO_TRAIN, LAST = "no_train", 10**6
"""The method that is the backbone as it is, and the place of a row that has none of its own."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A backbone with a method, or with a dataset, a rewrite and a training, over all its seeds.

    `changed` is what differs from the method as published: key -> its value, and this variant's. `digest` stands in the
    runs' names for it.
    """

    backbone: str
    dataset: str
    rewrite: str
    training: str
    tag: str
    method: str
    named: str
    order: int
    tables: tuple[str, ...]
    changed: Mapping[str, Sequence[Any]]
    digest: str
    folders: Mapping[int, Path]
    judged: Mapping[Made, Mapping[int, Evaluation]]

    @property
    def untrained(self) -> bool:
        """Whether this is the backbone as it is; published weights, which nobody trained here, are not."""
        return (self.rewrite, self.training) == ("none", "none") and self.method in ("", NO_TRAIN)

    @property
    def known_as(self) -> str:
        """The method, and of a run without one what it would be: the backbone as it is, or its rewrite."""
        return self.method or (NO_TRAIN if self.untrained else self.rewrite)

    @property
    def trains(self) -> bool:
        """Whether anything was trained: a defence in the prompt trains nothing."""
        return self.training != "none"

    @property
    def title(self) -> str:
        """The method's label, and what was changed of it."""
        name = self.named if self.method else ("No-train" if self.untrained else self.rewrite)
        return f"{name}, changed: {changes(self.changed)}" if self.changed else name

    @cached_property
    def settings(self) -> dict[str, Any]:
        """fingerprint.json of the first seed; empty where there is none."""
        return _read(next(iter(self.folders.values())) / "fingerprint.json")

    @cached_property
    def trained(self) -> list[dict[str, Any]]:
        """train.json of each seed that has one."""
        return [found for folder in self.folders.values() if (found := _read(folder / "train.json", Trained))]

    @cached_property
    def labels(self) -> dict[str, int]:
        """Training examples by label, as the first seed's rewrite wrote them."""
        found: dict[str, int] = _read(next(iter(self.folders.values())) / "rewrite.json", Rewritten).get("labels", {})
        return found

    def evaluated(self, column_made: Iterable[Made]) -> dict[str, Sequence[Any]]:
        """What its evaluations on these benchmarks changed of protocol and benchmark."""
        judged = (one for made in column_made for one in self.judged.get(made, {}).values())
        return {key: values for one in judged for key, values in one.changed.items()}

    def protocols(self) -> set[str]:
        """The protocols any number of it was made by."""
        return {protocol for protocol, _, _ in self.judged}


def _read(path: Path, schema: Any = dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = read_sealed(path, schema) if path.exists() else {}
    return found


def variants(judged: Iterable[Evaluation]) -> list[Variant]:
    """All variants, by backbone, then the method's place, then the rest of their names."""
    grouped: dict[tuple[str, ...], list[Evaluation]] = {}
    for one in judged:
        grouped.setdefault(_key(one), []).append(one)
    made = [_variant(key, own) for key, own in grouped.items()]
    return sorted(
        made,
        key=lambda one: (
            one.backbone,
            not one.untrained,
            one.order,
            _natural(one.title),
            _natural(one.dataset),
            one.training,
            one.tag,
            one.digest,
        ),
    )


def _natural(name: str) -> list[tuple[str, int]]:
    """A name's place in an order in which 50 stands before 100."""
    return [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", name)]


def _key(one: Evaluation) -> tuple[str, ...]:
    """Backbone, dataset, rewrite, training, method, what was changed, its digest, and tag: all but the seed."""
    names = one.names
    method = names.get("method", "")
    parts = ("backbone", "method") if method else ("backbone", "dataset", "rewrite", "training")
    start = "-".join(str(names[part]) for part in parts)
    found = re.fullmatch(rf"{re.escape(start)}(?:-(changed_[0-9a-f]+))?-s{names['seed']}(?:-(.*))?", one.run)
    digest, tag = (found[1] or "", found[2] or "") if found else ("", one.run.replace(f"-s{names['seed']}", ""))
    own = (str(names[part]) for part in ("backbone", "dataset", "rewrite", "training"))
    return (*own, method, json.dumps(names.get("changed", {}), sort_keys=True), digest, tag)


def _variant(key: tuple[str, ...], own: Sequence[Evaluation]) -> Variant:
    by_seed = sorted(own, key=lambda one: int(one.names["seed"]))
    judged: dict[Made, dict[int, Evaluation]] = {}
    for one in by_seed:
        made = (one.protocol["protocol"], one.benchmark, one.protocol["protocol_hash"])
        judged.setdefault(made, {})[int(one.names["seed"])] = one
    backbone, dataset, rewrite, training, method, changed, digest, tag = key
    names = by_seed[0].names
    return Variant(
        backbone=backbone,
        dataset=dataset,
        rewrite=rewrite,
        training=training,
        tag=tag,
        method=method,
        named=str(names.get("label", "")) or method,
        order=int(names.get("order", LAST)) if method else LAST,
        tables=tuple(names.get("tables", ("main",))),
        changed=json.loads(changed),
        digest=digest,
        folders={int(one.names["seed"]): one.folder.parent.parent for one in by_seed},
        judged=judged,
    )


def baseline_of(one: Variant, among: Iterable[Variant], made: Made) -> Variant | None:
    """The backbone as it is, judged in the same way; of several the unmodified one, then that of the same dataset."""
    found = [v for v in among if v.untrained and v.backbone == one.backbone and made in v.judged]
    return min(found, key=lambda v: (bool(v.changed), v.dataset != one.dataset), default=None)


def label(one: Variant, among: Sequence[Variant]) -> str:
    """The row's label: the title, with what tells it from other rows of this backbone with the same title."""
    name = one.title
    alike = [v for v in among if (v.backbone, v.title) == (one.backbone, one.title)]
    for part in ("dataset", "training", "tag", "digest"):
        if len({getattr(v, part) for v in alike}) > 1 and getattr(one, part):
            name += f" {getattr(one, part)}"
    return name
