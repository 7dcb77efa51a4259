"""Two runs on the same prompts, a table of such comparisons, and the smallest difference that they can show."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from alttrain.evaluation.statistics.intervals import CONFIDENCE, NORMAL, UNKNOWN, Estimate, Verdicts

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same prompts. `difference` is the second run's rate minus the first's, over ids decided in both.

    `gained` ids are True in the second run only, `lost` ones in the first only; `p` is McNemar's. `undecided` ids lack
    a verdict in one run or both, and are not in `n`.
    """

    difference: Estimate
    p: float
    n: int
    gained: int
    lost: int
    undecided: int


def compare(first: Verdicts, second: Verdicts) -> Comparison:
    """The difference of two rates and McNemar's exact test, over the ids that both runs hold.

    The interval is Bonett and Price's (2012): Wald's with one more pair each way. It covers at few pairs that differ,
    where the bootstrap does not, and has a width where none does.
    """
    pairs = [(first[name], second[name]) for name in first.keys() & second.keys()]
    decided = [pair for pair in pairs if None not in pair]
    n, gained, lost = len(decided), decided.count((False, True)), decided.count((True, False))
    return Comparison(*_paired(n, gained, lost), n, gained, lost, len(pairs) - n)


@cache  # in a large report many comparisons have the same counts
def _paired(n: int, gained: int, lost: int) -> tuple[Estimate, float]:
    """(difference, McNemar's p); p is 1 where no pair differs, and nan without pairs."""
    from scipy import stats

    if n == 0:
        return UNKNOWN, math.nan
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = NORMAL.inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    difference = Estimate((gained - lost) / n, max(-1.0, up - down - half), min(1.0, up - down + half))
    return difference, float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


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


@cache
def detectable_difference(prompts: float, differing: float, power: float = 0.8) -> float:
    """The smallest difference of two rates on the same prompts that McNemar's test at 5 % sees with this power.

    `differing` is the share of prompts that differ between the runs, one way or the other; a difference larger than it
    takes it to be all there is. Solves Connor's (1987) sample size for the difference; infinite where none would show.
    """
    from scipy.optimize import brentq

    def shown(difference: float) -> float:
        share = max(differing, difference)
        error = NORMAL.inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(share)
        return difference * math.sqrt(prompts) - error - NORMAL.inv_cdf(power) * math.sqrt(share - difference**2)

    return float(brentq(shown, 1e-9, 1.0)) if shown(1.0) > 0 else math.inf
