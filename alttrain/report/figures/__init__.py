"""All figures of a report, as PNG and SVG in figures/: which there are, and from what each is drawn.

- tradeoff                             main table: harmful rate over over-refusal, with accuracy
- main, ablation_structure, teacher_swap  these tables as bars
- data_size, benign_amount             these tables as dose and response
- adherence-BACKBONE                   adherence table, stacked
- losses-BACKBONE, lengths-BACKBONE    logs/metrics.csv and generations.jsonl of the runs

A protocol other than the default is named after a dot. Nothing is drawn that has no data.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from alttrain.report.columns import pool
from alttrain.report.entries import Entry
from alttrain.report.figures import adherence, bars, doses, lengths, losses, tradeoff
from alttrain.report.rows import OFFLINE, listed
from alttrain.report.tables import TITLES
from alttrain.report.variants import Variant

__all__ = ["draw_all"]

Drawing = tuple[str, Callable[[Path], bool]]
"""A figure's name, and what draws it under a path; False where there was nothing to draw."""
LONGEST = 100
"""Characters of a file's name."""


def draw_all(tables: Mapping[str, Sequence[Entry]], variants: Sequence[Variant], folder: Path) -> list[Path]:
    """Draw every figure there is data for; the files that were written."""
    backbones = dict.fromkeys(variant.backbone for variant in variants)
    by_backbone = {backbone: [v for v in variants if v.backbone == backbone] for backbone in backbones}
    drawings: list[Drawing] = [(f"losses-{name}", partial(losses.draw, own)) for name, own in by_backbone.items()]
    for protocol in sorted({protocol for variant in variants for protocol in variant.protocols()}):
        drawings += _of_protocol(tables, [v for v in variants if protocol in v.protocols()], protocol)
    named = [(folder / _file_name(name), draw) for name, draw in drawings]
    found = [path for path, draw in named if draw(path)]
    return [path.with_name(f"{path.name}.{form}") for path in found for form in ("png", "svg")]


def _file_name(name: str) -> str:
    """A figure's name as one that any disk takes: names of backbones and protocols are anybody's."""
    plain = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:LONGEST]
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode('utf-8', 'replace')):08x}"


def _of_protocol(tables: Mapping[str, Sequence[Entry]], found: Sequence[Variant], protocol: str) -> list[Drawing]:
    suffix = "" if protocol in ("", OFFLINE) else f".{protocol}"
    own = {name: [one for one in entries if one.protocol == protocol] for name, entries in tables.items()}
    drawings: list[Drawing] = [
        (f"tradeoff{suffix}", partial(tradeoff.draw, own.get("main") or own.get("overview", [])))
    ]
    for name in ("main", "ablation_structure", "teacher_swap"):
        drawings.append((f"{name}{suffix}", partial(bars.draw, TITLES[name], own.get(name, []))))
    for name in ("data_size", "benign_amount"):
        amounts = {
            (row.backbone, row.label): (row.variant.rewrite, _amount(row.variant, name))
            for row in listed(found, name)
            if row.variant and row.variant.trains
        }
        drawings.append((f"{name}{suffix}", partial(doses.draw, TITLES[name], own.get(name, []), amounts)))
    pooled = pool(found, protocol)
    for backbone in dict.fromkeys(variant.backbone for variant in found):
        assessed = [one for one in own.get("adherence", []) if one.backbone == backbone]
        drawings.append((f"adherence-{backbone}{suffix}", partial(adherence.draw, assessed)))
        alike = [variant for variant in found if variant.backbone == backbone]
        drawings.append((f"lengths-{backbone}{suffix}", partial(lengths.draw, alike, pooled)))
    return drawings


def _amount(variant: Variant, table: str) -> int:
    return sum(variant.labels.values()) if table == "data_size" else variant.labels.get("benign", 0)
