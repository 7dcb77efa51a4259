"""Which rows a table has, and what each is called. A run says itself of which tables it is a row (run.json, tables);
rows that another backbone or a source has and this one lacks are there, too, to say what to run."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alttrain.report.columns import Column
from alttrain.report.commands import described
from alttrain.report.published import published
from alttrain.report.variants import LAST, NO_TRAIN, Variant, label

OFFLINE = "offline"
"""The protocol that a heading need not name."""
VARIED = {
    "teacher_swap": ("rewrite.teacher.",),
    "data_size": ("dataset.size", "dataset.name"),
    "benign_amount": ("dataset.amounts.", "dataset.size", "dataset.harmful_share", "dataset.name"),
    "ablation_structure": ("rewrite.",),
}
"""Tables in which one thing is varied -> the keys of it."""


@dataclass(frozen=True)
class Row:
    """A row: its label, and its variant. One that is missing has none; it has a `like` of another backbone, or the
    method alone."""

    backbone: str
    label: str
    method: str
    order: int = LAST
    variant: Variant | None = None
    like: Variant | None = field(default=None, kw_only=True)

    @property
    def known_as(self) -> str:
        """The method, and of a run without one what it would be."""
        return self.variant.known_as if self.variant else self.method


def row_of(named: str, own: Variant) -> Row:
    """The row of a variant."""
    return Row(own.backbone, named, own.method, own.order, own)


def every(found: Sequence[Variant], wanted: Callable[[Variant], bool] = lambda _: True) -> list[Row]:
    """A row for each variant that is wanted."""
    return [row_of(label(variant, found), variant) for variant in found if wanted(variant)]


def having(found: Sequence[Variant], columns: Sequence[Column]) -> list[Row]:
    """The rows with any of these columns: others were not meant to have them."""
    made = {column.made[0] for column in columns}
    return every(found, lambda variant: bool(made & variant.judged.keys()))


def methods(main: Sequence[Variant], protocol: str) -> list[Row]:
    """Each backbone's methods, and those that it lacks and another backbone or a source of this protocol has."""
    rows = []
    for backbone, alike in itertools.groupby(main, key=lambda variant: variant.backbone):
        own = list(alike)
        there = {variant.known_as for variant in own if not variant.changed}
        lacking = {v.known_as: v for v in reversed(main) if not (v.changed or v.tag)}
        found = every(own) + [
            Row(backbone, like.title, like.method, like.order, like=like)
            for name, like in lacking.items()
            if name not in there
        ]
        here = [one for one in published() if (one.table, one.protocol, one.backbone) == ("main", protocol, backbone)]
        for method in dict.fromkeys(one.method for one in here if one.known):
            if method not in there | lacking.keys():
                told = described(method)
                found.append(Row(backbone, told.label, method, told.order))
        rows += sorted(found, key=lambda row: (row.known_as != NO_TRAIN, row.order))
    return rows


def belongs(variant: Variant, table: str) -> bool:
    """Whether a table has a variant: run.json names it, and what a changed one changed is what the table varies."""
    varied = next((name for name, keys in VARIED.items() if all(key.startswith(keys) for key in variant.changed)), "")
    if not variant.changed or table not in variant.tables:
        return table in variant.tables
    return table == varied if varied in variant.tables else table not in VARIED


def listed(found: Sequence[Variant], table: str) -> list[Row]:
    """The rows of a table in which one thing is varied, each backbone's No-train before them; only of backbones with
    several."""
    rows = []
    for _, alike in itertools.groupby(found, key=lambda variant: variant.backbone):
        group = list(alike)
        own = [variant for variant in group if belongs(variant, table) and not variant.untrained]
        if len(own) > 1:
            base = [variant for variant in group if variant.untrained and not variant.changed][:1]
            rows += [row_of(label(variant, group), variant) for variant in (*base, *own)]
    return rows
