"""Runs that differ in nothing but their seed, as one: what a row of a table is made of.

Reads, beside the judged benchmarks, fingerprint.json (settings), rewrite.json (examples) and train.json of each run.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alttrain.report.runs import Evaluation

Made = tuple[str, str, str]
"""How a number was made: protocol, benchmark, and the hash of all that shapes it."""
METHODS: tuple[str, ...]
METHODS = ("none", "intention_analysis", "safety_prompt", "direct_refusal", "plain", "safechain", "star1", "safepath")
METHODS += ("r1_act", "alttrain")
"""Rewrites in the order of a table's rows; others come after these by name."""
ABLATIONS = {
    "alttrain_without_pu": "without PU",
    "alttrain_without_ha": "without HA",
    "alttrain_without_cr": "without CR",
    "alttrain_rephrased": "CR rephrased",
}
FULL, NO_TRAIN, BY_TEACHER = "alttrain", "none", "alttrain_by_"
"""Rewrites: the whole structure, the backbone as it is, and the prefix of the structure by another teacher."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A backbone with a dataset, a rewrite and a training, over all its seeds."""

    backbone: str
    dataset: str
    rewrite: str
    training: str
    tag: str
    folders: Mapping[int, Path]
    judged: Mapping[Made, Mapping[int, Evaluation]]

    @property
    def names(self) -> dict[str, str]:
        """The names a published figure is known by."""
        return {"backbone": self.backbone, "rewrite": self.rewrite, "dataset": self.dataset}

    @property
    def untrained(self) -> bool:
        """Whether this is the backbone as it is."""
        return (self.rewrite, self.training) == (NO_TRAIN, NO_TRAIN)

    @property
    def trains(self) -> bool:
        """Whether anything was trained: a defence in the prompt trains nothing."""
        return self.training != "none"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """fingerprint.json of the first seed, without what names the run; empty where there is none."""
        found = _read(next(iter(self.folders.values())) / "fingerprint.json")
        return {key: value for key, value in found.items() if key not in ("seed", "dataset.name", "rewrite.name")}

    @cached_property
    def trained(self) -> list[dict[str, Any]]:
        """train.json of each seed that has one."""
        return [found for folder in self.folders.values() if (found := _read(folder / "train.json"))]

    @cached_property
    def labels(self) -> dict[str, int]:
        """Training examples by label, as the first seed's rewrite wrote them."""
        found: dict[str, int] = _read(next(iter(self.folders.values())) / "rewrite.json").get("labels", {})
        return found

    def protocols(self) -> set[str]:
        """The protocols any number of it was made by."""
        return {protocol for protocol, _, _ in self.judged}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def variants(judged: Iterable[Evaluation]) -> list[Variant]:
    """All variants, by backbone, then method, then the rest of their names."""
    grouped: dict[tuple[str, ...], list[Evaluation]] = {}
    for one in judged:
        grouped.setdefault(_key(one), []).append(one)
    made = [_variant(key, own) for key, own in grouped.items()]
    return sorted(
        made, key=lambda one: (one.backbone, *order(one.rewrite), _natural(one.dataset), one.training, one.tag)
    )


def _natural(name: str) -> list[tuple[str, int]]:
    """A name's place in an order in which 50 stands before 100."""
    return [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", name)]


def _key(one: Evaluation) -> tuple[str, ...]:
    """Backbone, dataset, rewrite, training and tag: the run's name without its seed."""
    names = [str(one.names[part]) for part in ("backbone", "dataset", "rewrite", "training")]
    start = "-".join([*names, f"s{one.names['seed']}"])
    tag = one.run.removeprefix(start).removeprefix("-") if one.run.startswith(start) else one.run
    return (*names, tag)


def _variant(key: tuple[str, ...], own: Sequence[Evaluation]) -> Variant:
    by_seed = sorted(own, key=lambda one: int(one.names["seed"]))
    judged: dict[Made, dict[int, Evaluation]] = {}
    for one in by_seed:
        made = (one.protocol["protocol"], one.benchmark, one.protocol["protocol_hash"])
        judged.setdefault(made, {})[int(one.names["seed"])] = one
    return Variant(
        backbone=key[0],
        dataset=key[1],
        rewrite=key[2],
        training=key[3],
        tag=key[4],
        folders={int(one.names["seed"]): one.folder.parent.parent for one in by_seed},
        judged=judged,
    )


def order(rewrite: str) -> tuple[int, str]:
    """Where a method's row stands."""
    return METHODS.index(rewrite) if rewrite in METHODS else len(METHODS), rewrite


def baseline_of(one: Variant, among: Iterable[Variant], made: Made) -> Variant | None:
    """The backbone as it is, judged in the same way; of several the one with the same dataset's name."""
    found = [v for v in among if v.untrained and v.backbone == one.backbone and made in v.judged]
    return min(found, key=lambda v: v.dataset != one.dataset, default=None)


def method(rewrite: str) -> str:
    """A rewrite as a method's name."""
    return "No-train" if rewrite == NO_TRAIN else rewrite


def label(one: Variant, among: Sequence[Variant]) -> str:
    """The method's name, with dataset, training and tag where another row of this method and backbone has others."""
    name = method(one.rewrite)
    alike = [v for v in among if (v.backbone, v.rewrite) == (one.backbone, one.rewrite)]
    for part in ("dataset", "training", "tag"):
        if len({getattr(v, part) for v in alike}) > 1 and getattr(one, part):
            name += f" {getattr(one, part)}"
    return name


def is_main(one: Variant, among: Iterable[Variant]) -> bool:
    """Whether it is a method of the main table: no ablation, no other teacher, no amount of data of its own.

    A dataset named for its amount belongs to a method's row only where other methods were trained on it, too.
    """
    if one.rewrite.startswith(f"{FULL}_"):
        return False
    amount = re.search(r"_\d+$", one.dataset) is not None
    others = {v.rewrite for v in among if (v.backbone, v.dataset) == (one.backbone, one.dataset)}
    return not amount or len(others) > 1


def alike_but(among: Iterable[Variant], key: str) -> list[list[Variant]]:
    """Trained variants in groups whose settings differ in this key alone, and do differ in it.

    Runs whose settings are not on file are left out.
    """
    grouped: dict[str, list[Variant]] = {}
    for one in among:
        if one.settings and one.trains:
            rest = {name: value for name, value in one.settings.items() if name != key}
            grouped.setdefault(json.dumps([one.tag, rest], sort_keys=True), []).append(one)
    return [group for group in grouped.values() if len({json.dumps(one.settings.get(key)) for one in group}) > 1]
