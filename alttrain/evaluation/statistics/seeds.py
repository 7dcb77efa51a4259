"""Rates and means over seeds and items, both of which vary."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from alttrain.evaluation.statistics.intervals import Estimate, Verdicts, effective_size, student, wilson

TIED = 1e-9
"""Two mean squares that differ by less than this part are alike: what remains is rounding."""


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds and items. `missing` of the seeds x items cells had no value and are left out."""

    estimate: Estimate
    seeds: int
    items: int
    missing: int


def mean_over_seeds(values: Mapping[int, Mapping[str, float | None]]) -> SeedMean:
    """Mean of values by seed and id, with an interval for new seeds and new items of the same kind.

    Both are random and crossed, so the variance of the mean is (MS_seeds + MS_items - MS_rest) / cells, the variance
    components of a two-way analysis of variance, none below 0; t with Satterthwaite's degrees of freedom, of the mean
    squares that are left. Cells without a value are left out of the sums (as in Cameron, Gelbach and Miller, 2011).
    Where no value is negative the interval ends at 0. Raises ValueError for fewer than two seeds or items, or where
    seeds hold different ids.
    """
    mean, variance, freedom, counts = _crossed(values)
    half = student(freedom) * math.sqrt(variance) if variance else 0.0
    negative = any(value < 0 for own in values.values() for value in own.values() if value is not None)
    low = mean - half if negative else max(0.0, mean - half)
    return SeedMean(Estimate(mean, low, mean + half), *counts)


def rate_over_seeds(verdicts: Mapping[int, Verdicts]) -> SeedMean:
    """The share of True over seeds and items: `mean_over_seeds` on Wilson's scale, so that it stays within 0 and 1.

    The interval is Wilson's for the effective sample size share (1 - share) / variance, scaled for t. Where every
    verdict is alike the items are the sample: seeds that agree add nothing.
    """
    share, variance, freedom, counts = _crossed(verdicts)
    effective = effective_size(share, variance, freedom) if variance else float(counts[1])
    return SeedMean(Estimate(share, *wilson(share * effective, effective)), *counts)


def _crossed(values: Mapping[int, Mapping[str, float | None]]) -> tuple[float, float, float, tuple[int, int, int]]:
    """(mean, its variance, degrees of freedom, (seeds, items, missing cells)) of crossed seeds and items."""
    import numpy as np

    names = sorted(set().union(*(own.keys() for own in values.values())))
    for seed, own in values.items():
        if len(own) < len(names):
            absent = next(name for name in names if name not in own)
            raise ValueError(f"seed {seed} lacks id {absent!r}: seeds of one benchmark hold the same ids")
    rows = [[math.nan if (value := own[name]) is None else value for name in names] for own in values.values()]
    table = np.array(rows, dtype=float).reshape(len(values), len(names))
    there = ~np.isnan(table)
    seeds, items = int(there.any(1).sum()), int(there.any(0).sum())
    if seeds < 2 or items < 2:
        raise ValueError(
            f"{seeds} seeds and {items} ids with a value: variation over both needs at least two of each; "
            "take wilson or mean_interval for one run"
        )
    cells = int(there.sum())
    mean = float(table[there].mean())
    off = np.where(there, table - mean, 0.0)
    by_seed, by_item = off.sum(1), off.sum(0)
    rest = off - (by_seed / np.maximum(there.sum(1), 1))[:, None] - by_item / np.maximum(there.sum(0), 1)
    # mean squares times the number of cells
    degrees = (seeds - 1, items - 1, (seeds - 1) * (items - 1))
    squares = (
        float((by_seed**2).sum()) * seeds / degrees[0],
        float((by_item**2).sum()) * items / degrees[1],
        float((rest[there] ** 2).sum()) * cells / degrees[2],
    )
    # seeds, or items, that vary no more than the rest does have no component of their own, and no part in the freedom
    seeds_vary, items_vary = (square > squares[2] * (1 + TIED) for square in squares[:2])
    parts = (int(seeds_vary), int(items_vary), 1 - seeds_vary - items_vary)
    total = sum(part * square for part, square in zip(parts, squares, strict=True))
    used = zip(parts, squares, degrees, strict=True)
    spread = sum((part * square) ** 2 / degree for part, square, degree in used)
    freedom = total**2 / spread if spread else 1.0
    return mean, total / cells**2, freedom, (len(values), len(names), len(values) * len(names) - cells)
