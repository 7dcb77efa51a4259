"""Which rows a table has, and what each is called. Rows that another backbone or the paper has and this one lacks are
there, too, to say what to run."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from alttrain.report.columns import Column
from alttrain.report.published import Figure, published
from alttrain.report.variants import (
    ABLATIONS,
    BY_TEACHER,
    FULL,
    NO_TRAIN,
    Variant,
    alike_but,
    label,
    method,
    order,
)

OFFLINE = "offline"
"""The protocol whose numbers are judged by phrases: published figures, judged by models, do not stand beside them."""


@dataclass(frozen=True)
class Row:
    """A row: its label, and its variant. One that is not there yet takes after a `like` of another backbone; one of
    published figures alone has neither."""

    label: str
    names: dict[str, str]
    variant: Variant | None = None
    like: Variant | None = None


def row_of(named: str, variant: Variant) -> Row:
    """The row of a variant."""
    return Row(named, variant.names, variant)


def having(rows: Sequence[Row], columns: Sequence[Column], table: str) -> list[Row]:
    """The rows with any of these columns, as other runs were not meant to have them, and what the paper reports for a
    backbone that is not known."""
    made = {column.made[0] for column in columns}
    found = [row for row in rows if row.variant and made & row.variant.judged.keys()]
    if not found or columns[0].protocol == OFFLINE:
        return found
    nameless = dict.fromkeys(one.rewrite for one in _known(table, ""))
    names = {rewrite: {"backbone": "", "rewrite": rewrite, "dataset": "alttrain_1k"} for rewrite in nameless}
    return found + [Row(f"{method(rewrite)}, published", own) for rewrite, own in names.items()]


def methods(main: Sequence[Variant], protocol: str) -> list[Row]:
    """Each backbone's methods, and those that it lacks and another backbone or the paper has."""
    rows = []
    for backbone in dict.fromkeys(variant.backbone for variant in main):
        own = [variant for variant in main if variant.backbone == backbone]
        found = [row_of(label(variant, main), variant) for variant in own]
        others = {v.rewrite: v for v in reversed(main)}
        if protocol != OFFLINE:
            others = {one.rewrite: _unseen(one, own[-1]) for one in _known("main", backbone)} | others
        there = {variant.rewrite for variant in own}
        lacking = [v for rewrite, v in others.items() if rewrite not in there]
        found += [Row(method(v.rewrite), {**v.names, "backbone": backbone}, like=v) for v in lacking]
        rows += sorted(found, key=lambda row: order(row.names["rewrite"]))
    return rows


def _known(table: str, backbone: str) -> list[Figure]:
    """The published figures of a table and backbone, unknown ones left out."""
    return [one for one in published() if (one.table, one.backbone) == (table, backbone) and one.value >= 0]


def _unseen(figure: Figure, other: Variant) -> Variant:
    """What nobody ran of a published row, as the paper's experiment would name it."""
    trained = figure.rewrite != NO_TRAIN
    dataset = figure.dataset or other.dataset
    training = ("sft" if other.training == "none" else other.training) if trained else "none"
    return replace(other, rewrite=figure.rewrite, dataset=dataset, training=training, tag="", folders={}, judged={})


def sweeps(found: Sequence[Variant]) -> list[tuple[str, list[Row]]]:
    """The tables in which one thing is varied, each with the groups of all backbones, No-train first."""
    structured = [v for v in found if v.rewrite == FULL or v.rewrite.startswith(f"{FULL}_")]
    ablated = [v for v in structured if not v.rewrite.startswith(BY_TEACHER)]
    taught = [v for v in structured if v.rewrite == FULL or v.rewrite.startswith(BY_TEACHER)]
    return [
        (name, rows)
        for name, rows in (
            ("ablation_structure", _groups(_together(ablated), _step, found)),
            ("teacher_swap", _groups(_together(taught), lambda v: f"by {_teacher(v)}", found)),
            ("data_size", _groups(alike_but(found, "dataset.size"), _examples, found)),
            ("benign_amount", _groups(alike_but(found, "dataset.amounts.benign"), _harmless, found)),
        )
        if rows
    ]


def _together(structured: Sequence[Variant]) -> list[list[Variant]]:
    """Variants of the structure by backbone and dataset, the whole one first; only where there are others."""
    grouped: dict[tuple[str, str], list[Variant]] = {}
    steps = [FULL, *ABLATIONS]
    for one in sorted(structured, key=lambda v: steps.index(v.rewrite) if v.rewrite in steps else len(steps)):
        grouped.setdefault((one.backbone, one.dataset), []).append(one)
    return [group for group in grouped.values() if any(one.rewrite != FULL for one in group)]


def _groups(groups: Sequence[Sequence[Variant]], say: Callable[[Variant], str], found: Sequence[Variant]) -> list[Row]:
    """The rows of groups by backbone, each backbone's No-train before them; a label that stands twice says more."""
    rows: list[Row] = []
    for group in sorted(groups, key=lambda group: group[0].backbone):
        base = [v for v in found if v.untrained and v.backbone == group[0].backbone][:1]
        ordered = sorted(group, key=lambda v: (sum(v.labels.values()), v.labels.get("benign", 0)))
        by_amount = len({json.dumps(v.labels, sort_keys=True) for v in group}) == len(group)
        for variant in (*base, *(ordered if by_amount else group)):
            if all(row.variant is not variant for row in rows):
                rows.append(row_of("No-train" if variant.untrained else say(variant), variant))
    counts = Counter((row.names["backbone"], row.label) for row in rows)
    return [row if counts[row.names["backbone"], row.label] == 1 else _longer(row) for row in rows]


def _longer(row: Row) -> Row:
    assert row.variant is not None
    own = row.variant
    return replace(row, label=" ".join([row.label, *filter(None, (own.rewrite, own.dataset, own.training, own.tag))]))


def _step(variant: Variant) -> str:
    return ABLATIONS.get(variant.rewrite, "full" if variant.rewrite == FULL else variant.rewrite)


def _teacher(variant: Variant) -> str:
    named = variant.rewrite.removeprefix(BY_TEACHER) if variant.rewrite != FULL else "template"
    return str(variant.settings.get("rewrite.teacher.name", named))


def _examples(variant: Variant) -> str:
    return f"{method(variant.rewrite)}, {sum(variant.labels.values()):,} examples"


def _harmless(variant: Variant) -> str:
    return f"{method(variant.rewrite)}, {variant.labels.get('benign', 0):,} harmless"
