"""Intervals of one run's rates and means; items that have several texts are clusters of them."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

CONFIDENCE = 0.95
RESAMPLES = 9_999
NORMAL = NormalDist()
_BATCH = 4_000_000
"""Resampled values held at once: 32 MB."""

Verdicts = Mapping[Any, bool | None]
"""Verdict by sample id, or by (id, sample) where several texts of a prompt are judged; None where undecided."""


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
    effective = effective_size(share, variance, clusters - 1) if variance else float(clusters)
    return Estimate(share, *wilson(share * effective, effective))


def mean_by_item(values: Sequence[float], items: Sequence[Hashable]) -> Estimate:
    """Mean with Student's t interval, items as clusters: `mean_interval` where every item has one value."""
    mean, variance, clusters = _clustered(values, items)
    half = student(clusters - 1) * math.sqrt(variance) if variance else 0.0
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


def effective_size(share: float, variance: float, freedom: float) -> float:
    """How many independent verdicts give a share this variance, less for what t is wider than the normal."""
    return share * (1 - share) / variance * (NORMAL.inv_cdf((1 + CONFIDENCE) / 2) / student(freedom)) ** 2


def student(freedom: float) -> float:
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
