"""Rates, means and differences over seeds and items, both of which vary.

A mean over seeds and items has two variances: that between seeds, of which there are few, and that between items. Its
95 % interval is Banerjee's (1961): half its width is the root of the sum of each variance times the square of its own
Student's t. It never covers less than 95 % where means are normal, also with two seeds, where Satterthwaite's degrees
of freedom cover as little as 87 %. A difference is tested by the same: p is the level at which the interval reaches 0.

Two or three seeds hardly tell how much seeds vary: t is 12.7 and 4.3. For rates it is therefore known beforehand that
runs of one training do not vary by more than `MOST`, unless these did.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alttrain.evaluation.statistics.intervals import Estimate, effective_size, student, wilson

Values = Mapping[int, Mapping[Any, float | None]]
"""Seed -> item -> value, None where it is undecided; every seed has the same items."""
REMEDY = "take rate_by_item or mean_by_item for one run"
MOST = 1.0
"""Standard deviation between runs, in logits: 10 and 23 %, or 50 and 73 %, are one apart."""
LEAST_P = 1e-100
"""Smaller ones are 0."""


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds and items. `missing` of the seeds x items cells had no value and are left out."""

    estimate: Estimate
    seeds: int
    items: int
    missing: int


@dataclass(frozen=True)
class Variation:
    """A mean or a difference, and what it varies by, of seeds and of items: (variance, its degrees of freedom, the most
    it is known to be)."""

    value: float
    parts: Sequence[tuple[float, float, float]]

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(sum(variance for variance, *_ in self.parts))

    def half(self, level: float = 0.05) -> float:
        """Half the width of the interval that misses by no more than `level`."""
        normal = student(math.inf, level)
        squares = (
            min(variance * student(freedom, level) ** 2, max(variance, most) * normal**2)
            for variance, freedom, most in self.parts
        )
        return math.sqrt(sum(squares))

    def p(self) -> float:
        """Two-sided p of a value of 0; 0 where nothing varies and the value is another."""
        from scipy.optimize import brentq

        def beyond(log_p: float) -> float:
            return self.half(math.exp(log_p)) - abs(self.value)

        if self.value == 0:
            return 1.0
        least = math.log(LEAST_P)
        return math.exp(brentq(beyond, least, 0.0)) if beyond(least) > 0 else 0.0


def variation(sets: Sequence[tuple[Values, ...]], most: float = MOST) -> Variation:
    """The mean of several sets' rates with what it varies by; of pairs (own, baseline) that of their differences.

    Seeds are behind all sets at once, items behind one each. A baseline with one seed, which nothing trained, varies
    with its items only. `most` is the standard deviation between runs in logits; infinite for what is no rate. Raises
    ValueError for fewer than two items, or where seeds hold different ids.
    """
    value, parts = 0.0, []
    slope = [0.0, 0.0]  # of own and baseline: what a logit adds to the mean
    residual = [0.0, 0.0]  # and the variance within their seeds
    between: dict[tuple[int, int], float] = defaultdict(float)  # what a seed of own or baseline adds to the mean
    for arms in sets:
        adds: dict[Any, float] = defaultdict(float)
        within = 0.0
        for sign, (arm, values) in zip((1, -1), enumerate(arms), strict=False):
            mean, by_seed, by_item, rest = _crossed(values)
            value += sign * mean / len(sets)
            within += rest
            slope[arm] += mean * (1 - mean) / len(sets)
            residual[arm] += rest / len(sets) ** 2
            for seed, off in by_seed.items():
                between[arm, seed] += sign * off / len(sets)
            for item, off in by_item.items():
                adds[item] += sign * off
        items = len(adds)
        if items < 2:
            raise ValueError(f"{items} ids with a value: variation over items needs at least two; {REMEDY}")
        variance = sum(off**2 for off in adds.values()) * items / (items - 1) - within
        parts.append((max(0.0, variance) / len(sets) ** 2, items - 1.0, math.inf))
    for arm in (0, 1):
        offs = [off for (own, _), off in between.items() if own == arm]
        if (seeds := len(offs)) > 1:
            bound = residual[arm] + (most * slope[arm]) ** 2 / seeds if most < math.inf else most
            parts.append((sum(off**2 for off in offs) * seeds / (seeds - 1), seeds - 1.0, bound))
    return Variation(value, parts)


def mean_over_seeds(values: Values) -> SeedMean:
    """Mean of values by seed and id, with an interval for new seeds and new items of the same kind.

    Cells without a value are left out of the sums (as in Cameron, Gelbach and Miller, 2011). Where no value is negative
    the interval ends at 0. Raises ValueError for fewer than two seeds or items, or where seeds hold different ids.
    """
    found, counts = _over_seeds([values], math.inf)
    negative = any(value < 0 for own in values.values() for value in own.values() if value is not None)
    low = found.value - found.half()
    return SeedMean(Estimate(found.value, low if negative else max(0.0, low), found.value + found.half()), *counts)


def rate_over_seeds(*sets: Values) -> SeedMean:
    """The share of True over seeds and items, or the mean of several sets' shares, each set counting alike.

    The interval is Wilson's for the effective sample size that has the variance of `mean_over_seeds`, so that it stays
    within 0 and 1. Where every verdict is alike the items are the sample: seeds that agree add nothing.
    """
    found, counts = _over_seeds(sets)
    share, half = found.value, found.half()
    effective = effective_size(share, half) if half else float(counts[1])
    return SeedMean(Estimate(share, *wilson(share * effective, effective)), *counts)


def _over_seeds(sets: Sequence[Values], most: float = MOST) -> tuple[Variation, tuple[int, int, int]]:
    """What the sets' mean varies by, and (seeds, items, missing cells)."""
    for values in sets:
        there = [{name for name, value in own.items() if value is not None} for own in values.values()]
        seeds, items = sum(map(bool, there)), len(set().union(*there))
        if seeds < 2 or items < 2:
            raise ValueError(
                f"{seeds} seeds and {items} ids with a value: variation over both needs at least two of each; {REMEDY}"
            )
    missing = sum(value is None for values in sets for own in values.values() for value in own.values())
    items = sum(len(next(iter(values.values()))) for values in sets)
    return variation([(values,) for values in sets], most), (len(sets[0]), items, missing)


def _crossed(values: Values) -> tuple[float, dict[int, float], dict[Any, float], float]:
    """(mean, what each seed adds to it, what each item adds, the variance of the mean from what neither explains)."""
    import numpy as np

    names = sorted(set().union(*(own.keys() for own in values.values())))
    for seed, own in values.items():
        if len(own) < len(names):
            absent = next(name for name in names if name not in own)
            raise ValueError(f"seed {seed} lacks id {absent!r}: seeds of one benchmark hold the same ids")
    rows = [[math.nan if (value := own[name]) is None else value for name in names] for own in values.values()]
    table = np.array(rows, dtype=float).reshape(len(values), len(names))
    there = ~np.isnan(table)
    cells = int(there.sum())
    mean = float(table[there].mean())
    off = np.where(there, table - mean, 0.0)
    by_seed, by_item = off.sum(1), off.sum(0)
    rest = off - (by_seed / np.maximum(there.sum(1), 1))[:, None] - by_item / np.maximum(there.sum(0), 1)
    freedom = max(1, (len(values) - 1) * (len(names) - 1))
    return (
        mean,
        dict(zip(values, (by_seed / cells).tolist(), strict=True)),
        dict(zip(names, (by_item / cells).tolist(), strict=True)),
        float((rest[there] ** 2).sum()) / freedom / cells,
    )
