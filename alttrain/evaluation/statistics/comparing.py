"""Two runs on the same prompts, a table of such comparisons, and what a benchmark of a size can show."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from alttrain.evaluation.statistics.intervals import CONFIDENCE, NORMAL, RESAMPLES, UNKNOWN, Estimate, Verdicts

_TAILS = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
Key = TypeVar("Key", bound=Hashable)


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
