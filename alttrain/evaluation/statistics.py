"""Intervals. scipy does the arithmetic; 95 % throughout."""

import math
from collections.abc import Sequence

CONFIDENCE = 0.95


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927), as shares; (nan, nan) without trials."""
    if trials == 0:
        return math.nan, math.nan
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) with Student's t interval; low and high are the mean itself for fewer than two values."""
    if not values:
        return math.nan, math.nan, math.nan
    from scipy import stats

    mean = sum(values) / len(values)
    error = stats.sem(values) if len(values) > 1 else 0.0
    if error == 0.0:
        return mean, mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)
