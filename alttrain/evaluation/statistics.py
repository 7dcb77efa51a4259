"""Intervals, comparisons of runs, and what a benchmark can show. 95 % throughout.

- one rate or mean            `wilson`, `mean_interval`, `bootstrap`; `rate_by_item` where prompts have several texts
- two runs on the same ids    `compare`: paired bootstrap of the difference, McNemar's exact test; `holm` over a table
- several texts of a prompt   `pass_at_k`
- several seeds               `rate_over_seeds`, `mean_over_seeds`: seeds and items both vary
- before running anything     `minimum_detectable_effect`

Arithmetic that scipy and statsmodels have is theirs, but for closed forms of a few lines that every summary needs:
importing them takes longer than the sums. Rates are shares of 1. A verdict of None is undecided: it is in no rate, and
it is counted. Whatever draws random numbers takes its seed and is the same every time.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, TypeVar

CONFIDENCE = 0.95
RESAMPLES = 9_999
NORMAL = NormalDist()
_TAILS = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
_BATCH = 4_000_000
"""Resampled values held at once: 32 MB."""

TIED = 1e-9
"""Two mean squares that differ by less than this part are alike: what remains is rounding."""

Verdicts = Mapping[Any, bool | None]
"""Verdict by sample id, or by (id, sample) where several texts of a prompt are judged; None where undecided."""
Key = TypeVar("Key", bound=Hashable)


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927), as shares; (nan, nan) without trials.

    Counts may be fractions: those of an effective sample size.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials: expected 0 <= successes <= trials")
    if trials == 0:
        return math.nan, math.nan
    share, z = successes / trials, NORMAL.inv_cdf((1 + CONFIDENCE) / 2)
    shrink = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    # at the ends rounding would leave some 1e-17
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def rate(successes: int, trials: int) -> Estimate:
    """A proportion with Wilson's interval; nan without trials."""
    return Estimate(successes / trials if trials else math.nan, *wilson(successes, trials))


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval; low and high are the mean itself for fewer than two values."""
    return mean_by_item(values, range(len(values)))


def rate_by_item(verdicts: Sequence[bool], items: Sequence[Hashable]) -> Estimate:
    """The share of True; Wilson's interval for the effective sample size where an item has several verdicts.

    Texts of one prompt are alike, so they count for less than as many prompts: the variance is that of items as
    clusters, and `rate` itself where every item has one verdict. Where all verdicts are alike the items are the sample.
    """
    if len(set(items)) == len(verdicts):
        return rate(sum(verdicts), len(verdicts))
    share, variance, clusters = _clustered(verdicts, items)
    effective = _effective(share, variance, clusters - 1) if variance else float(clusters)
    return Estimate(share, *wilson(share * effective, effective))


def mean_by_item(values: Sequence[float], items: Sequence[Hashable]) -> Estimate:
    """Mean with Student's t interval, items as clusters: `mean_interval` where every item has one value."""
    mean, variance, clusters = _clustered(values, items)
    half = _student(clusters - 1) * math.sqrt(variance) if variance else 0.0
    return Estimate(mean, mean - half, mean + half)


def _clustered(values: Sequence[float], items: Sequence[Hashable]) -> tuple[float, float, int]:
    """(mean, its variance with items as clusters, number of items); the variance is 0 where it cannot be known."""
    if not values:
        return math.nan, 0.0, 0
    mean, off = sum(values) / len(values), defaultdict[Hashable, float](float)
    for value, item in zip(values, items, strict=True):
        off[item] += value - mean
    clusters = len(off)
    squares = sum(total**2 for total in off.values())
    return mean, squares * clusters / (clusters - 1) / len(values) ** 2 if clusters > 1 else 0.0, clusters


def _effective(share: float, variance: float, freedom: float) -> float:
    """How many independent verdicts give a share this variance, less for what t is wider than the normal."""
    return share * (1 - share) / variance * (NORMAL.inv_cdf((1 + CONFIDENCE) / 2) / _student(freedom)) ** 2


def _student(freedom: float) -> float:
    """Student's t that leaves 2.5 % above it."""
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def bootstrap(
    values: Sequence[float],
    seed: int,
    statistic: Literal["mean", "median"] = "mean",
    method: Literal["percentile", "BCa"] = "BCa",
    resamples: int = RESAMPLES,
) -> Estimate:
    """A statistic with its bootstrap interval (Efron, 1987); nan bounds for fewer than two values.

    Equal values give an interval of no width: a rate of 0 or 1 wants `wilson`.
    """
    import numpy as np
    from scipy import stats

    function: Callable[..., Any] = np.mean if statistic == "mean" else np.median
    if len(values) < 2:
        return Estimate(float(values[0]), math.nan, math.nan) if values else UNKNOWN
    sample = np.asarray(values, dtype=float)
    value = float(function(sample))
    if sample.min() == sample.max():
        return Estimate(value, value, value)
    interval = stats.bootstrap(
        (sample,),
        function,
        n_resamples=resamples,
        batch=max(1, _BATCH // len(sample)),
        confidence_level=CONFIDENCE,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same prompts. `difference` is the second run's rate minus the first's, over ids decided in both.

    `gained` ids are True in the second run only, `lost` ones in the first only; `p` is McNemar's. `undecided` ids lack
    a verdict in one run or both; `only_first` and `only_second` ids were in one run only. None of these count in `n`.
    """

    difference: Estimate
    p: float
    n: int
    gained: int
    lost: int
    undecided: int
    only_first: int
    only_second: int


def compare(
    first: Verdicts,
    second: Verdicts,
    seed: int,
    unmatched: Literal["refuse", "count"] = "refuse",
    resamples: int = RESAMPLES,
) -> Comparison:
    """Paired percentile bootstrap of the difference of two rates, and McNemar's exact test, matched by sample id.

    The test is the exact binomial one at any number of pairs. Without a pair that differs the bootstrap has no width
    and p is 1: `minimum_detectable_effect` then says what could have been seen. Raises ValueError where an id is in one
    run only, unless such ids are to be counted.
    """
    import numpy as np
    from scipy import stats

    only_first, only_second = sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())
    if unmatched == "refuse" and (only_first or only_second):
        where, some = ("first", only_first) if only_first else ("second", only_second)
        raise ValueError(
            f"{len(only_first)} ids are in the first run only and {len(only_second)} in the second only, such as "
            f"{some[0]!r} ({where}); compare runs of the same benchmark, or pass unmatched='count' to leave these out"
        )
    pairs = [(first[name], second[name]) for name in first.keys() & second.keys()]
    decided = [pair for pair in pairs if None not in pair]
    n, gained, lost = len(decided), decided.count((False, True)), decided.count((True, False))
    if n:
        # resampling n pairs with replacement draws their three kinds (gained, lost, alike) from a multinomial
        shares = np.array([gained, lost, n - gained - lost]) / n
        draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
        low, high = np.percentile((draws[:, 0] - draws[:, 1]) / n, _TAILS)
        difference = Estimate((gained - lost) / n, float(low), float(high))
    else:
        difference = UNKNOWN
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0 if n else math.nan
    return Comparison(
        difference, p, n, gained, lost, len(pairs) - n, only_first=len(only_first), only_second=len(only_second)
    )


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """p-values adjusted for their number (Holm, 1979), under the same keys. Raises ValueError on one outside 0 to 1."""
    for key, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"p-value of {key!r} is {p}: expected 0 to 1; leave out comparisons without decided pairs")
    if not p_values:
        return {}
    from statsmodels.stats.multitest import multipletests

    adjusted = multipletests(list(p_values.values()), method="holm")[1]
    return dict(zip(p_values, map(float, adjusted), strict=True))


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that one of `k` samples passes (Chen et al., 2021, equation 1).

    1 - C(samples - passed, k) / C(samples, k), as a product that cannot overflow. Raises ValueError on k > samples.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(
            f"pass@{k} of {passed} passed in {samples}: needs 0 <= passed <= samples and 1 <= k <= samples"
        )
    failing = 1.0
    for place in range(samples - passed + 1, samples + 1):
        failing *= max(0.0, 1 - k / place)
    return 1 - failing


class Effect(NamedTuple):
    """The smallest change of a rate that would be seen, as positive shares; nan where the rate has no such room."""

    decrease: float
    increase: float


def minimum_detectable_effect(baseline: float, n: int, power: float = 0.8, alpha: float = 0.05) -> Effect:
    """The change from `baseline` seen with this power by a two-sided test of two runs on `n` prompts each.

    Cohen's h (arcsine of the root), runs taken as independent: on the same prompts `compare` sees somewhat less.
    """
    if not 0 <= baseline <= 1 or n < 1:
        raise ValueError(f"baseline {baseline} with n {n}: expected a share of 0 to 1 and at least one prompt")
    h = (NORMAL.inv_cdf(1 - alpha / 2) + NORMAL.inv_cdf(power)) * math.sqrt(2 / n)
    angle = 2 * math.asin(math.sqrt(baseline))
    below, above = angle - h, angle + h
    return Effect(
        baseline - math.sin(below / 2) ** 2 if below >= 0 else math.nan,
        math.sin(above / 2) ** 2 - baseline if above <= math.pi else math.nan,
    )


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
    half = _student(freedom) * math.sqrt(variance) if variance else 0.0
    negative = any(value < 0 for own in values.values() for value in own.values() if value is not None)
    low = mean - half if negative else max(0.0, mean - half)
    return SeedMean(Estimate(mean, low, mean + half), *counts)


def rate_over_seeds(verdicts: Mapping[int, Verdicts]) -> SeedMean:
    """The share of True over seeds and items: `mean_over_seeds` on Wilson's scale, so that it stays within 0 and 1.

    The interval is Wilson's for the effective sample size share (1 - share) / variance, scaled for t. Where every
    verdict is alike the items are the sample: seeds that agree add nothing.
    """
    share, variance, freedom, counts = _crossed(verdicts)
    effective = _effective(share, variance, freedom) if variance else float(counts[1])
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
