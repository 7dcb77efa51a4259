"""Intervals of one run's rates and means; items that have several texts are clusters of them."""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

CONFIDENCE = 0.95
RESAMPLES = 9_999
NORMAL = NormalDist()

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


def rate_by_item(values: Sequence[float], items: Sequence[Hashable]) -> Estimate:
    """The share of True, or the mean of shares of 0 to 1, with Wilson's interval, which never leaves 0 to 1.

    Texts of one prompt are alike, so they count for less than as many prompts: the sample size is the effective one,
    from the variance of items as clusters, and `rate` itself where every item has one verdict. Where all values are
    alike the items are the sample.
    """
    if len(set(items)) == len(values) and set(values) <= {0, 1}:
        return rate(int(sum(values)), len(values))
    share, variance, clusters = _clustered(values, items)
    effective = effective_size(share, student(clusters - 1) * math.sqrt(variance)) if variance else float(clusters)
    return Estimate(share, *wilson(share * effective, effective))


def mean_by_item(values: Sequence[float], items: Sequence[Hashable]) -> Estimate:
    """Mean with Student's t interval, items as clusters; low and high are the mean itself for fewer than two items.

    Where no value is negative the interval ends at 0.
    """
    mean, variance, clusters = _clustered(values, items)
    half = student(clusters - 1) * math.sqrt(variance) if variance else 0.0
    low = mean - half
    return Estimate(mean, max(0.0, low) if values and min(values) >= 0 else low, mean + half)


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


def effective_size(share: float, half: float) -> float:
    """How many independent verdicts give a share an interval with this half width."""
    return share * (1 - share) * (NORMAL.inv_cdf((1 + CONFIDENCE) / 2) / half) ** 2


def student(freedom: float, level: float = 1 - CONFIDENCE) -> float:
    """Student's t that leaves half of `level` above it."""
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    return -float(stdtrit(freedom, level / 2))


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
