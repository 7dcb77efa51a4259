"""Intervals, comparisons of runs, and what a benchmark can show. 95 % throughout.

- one rate or mean            `wilson`; `rate_by_item`, `mean_by_item` where prompts have several texts
- two runs on the same ids    `compare`: paired interval of the difference, McNemar's exact test; `holm` over a table
- several texts of a prompt   `pass_at_k`
- several seeds               `rate_over_seeds`, `mean_over_seeds`, `variation`: seeds and items both vary
- what would have shown       `detectable_difference` of two runs on the same prompts

Arithmetic that scipy and statsmodels have is theirs, but for closed forms of a few lines that every summary needs:
importing them takes longer than the sums. Rates are shares of 1. A verdict of None is undecided: it is in no rate, and
it is counted.
"""

from alttrain.evaluation.statistics.comparing import Comparison, compare, detectable_difference, holm
from alttrain.evaluation.statistics.intervals import (
    CONFIDENCE,
    NORMAL,
    RESAMPLES,
    UNKNOWN,
    Estimate,
    Verdicts,
    effective_size,
    mean_by_item,
    pass_at_k,
    rate,
    rate_by_item,
    wilson,
)
from alttrain.evaluation.statistics.seeds import SeedMean, Variation, mean_over_seeds, rate_over_seeds, variation

__all__ = [
    "CONFIDENCE",
    "NORMAL",
    "RESAMPLES",
    "UNKNOWN",
    "Comparison",
    "Estimate",
    "SeedMean",
    "Variation",
    "Verdicts",
    "compare",
    "detectable_difference",
    "effective_size",
    "holm",
    "mean_by_item",
    "mean_over_seeds",
    "pass_at_k",
    "rate",
    "rate_by_item",
    "rate_over_seeds",
    "variation",
    "wilson",
]
