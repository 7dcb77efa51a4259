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

from alttrain.evaluation.statistics.comparing import Comparison, Effect, compare, holm, minimum_detectable_effect
from alttrain.evaluation.statistics.intervals import (
    CONFIDENCE,
    NORMAL,
    RESAMPLES,
    UNKNOWN,
    Estimate,
    Verdicts,
    bootstrap,
    mean_by_item,
    mean_interval,
    pass_at_k,
    rate,
    rate_by_item,
    wilson,
)
from alttrain.evaluation.statistics.seeds import SeedMean, mean_over_seeds, rate_over_seeds

__all__ = [
    "CONFIDENCE",
    "NORMAL",
    "RESAMPLES",
    "UNKNOWN",
    "Comparison",
    "Effect",
    "Estimate",
    "SeedMean",
    "Verdicts",
    "bootstrap",
    "compare",
    "holm",
    "mean_by_item",
    "mean_interval",
    "mean_over_seeds",
    "minimum_detectable_effect",
    "pass_at_k",
    "rate",
    "rate_by_item",
    "rate_over_seeds",
    "wilson",
]
