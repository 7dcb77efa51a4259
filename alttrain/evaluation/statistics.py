"""Intervals of rates and means, comparisons of runs, and statistical power. All intervals are 95 %.

An item is a prompt. Prompts with the same goal form a cluster (`cluster_of`): their variance is that of the clusters'
sums (Liang and Zeger, 1986), which allows for any dependence within one, also between its items' texts.

Rates are shares of 1. A verdict of None is undecided: it enters no rate, and its number is reported. scipy and
statsmodels do the arithmetic, except for short closed forms that every summary needs, since the import takes longer.

A mean over seeds and items has two variances: between seeds, of which there are few, and between items. Its interval is
Banerjee's (1961): half its width is sqrt(sum of variance x t^2), each variance with its own Student's t. It covers at
least 95 % for normal means, even with two seeds, where Satterthwaite's degrees of freedom cover as little as 87 %. The
p-value of a difference is the level at which this interval reaches 0. Two or three seeds say little about the variance
between seeds (t is 12.7 and 4.3), so for rates the standard deviation between runs of one training is assumed to be at
most `LARGEST_SD`, unless the runs show more.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, NamedTuple

CONFIDENCE = 0.95
POWER = 0.8  # the probability with which a detectable difference is detected
NORMAL = NormalDist()
Z = NORMAL.inv_cdf((1 + CONFIDENCE) / 2)  # half the width of a normal interval, in standard errors
LARGEST_SD = 1.0
"""Largest assumed standard deviation between runs, in logits: 10 and 23 %, or 50 and 73 %, are one apart."""
ROUNDING = 1e-9  # half-widths up to this are of equal values, whose mean was rounded
LEAST_P = 1e-100  # smaller p-values are returned as 0

Verdicts = Mapping[Any, bool | None]
"""Verdict by id, or by (subject, id, sample) if several texts of a prompt or subject are judged; None if undecided."""
Values = Mapping[int, Mapping[Any, float | None]]
"""Seed -> item -> value, None if undecided; every seed has the same items."""
Deviations = Mapping[Hashable, float]
"""Cluster -> the sum of its items' deviations from the mean, divided by the number of items."""


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927), as shares; (nan, nan) without trials.

    Counts may be fractions, of an effective sample size. Raises ValueError for more successes than trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials: expected 0 <= successes <= trials")
    if trials == 0:
        return math.nan, math.nan
    share = successes / trials
    shrink = 1 + Z * Z / trials
    centre = (share + Z * Z / (2 * trials)) / shrink
    half = Z / shrink * math.sqrt(share * (1 - share) / trials + Z * Z / (4 * trials**2))
    # exact at the ends, where rounding would leave about 1e-17
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def rate(successes: int, trials: int) -> Estimate:
    """A proportion with Wilson's interval; nan without trials."""
    return Estimate(successes / trials if trials else math.nan, *wilson(successes, trials))


def cluster_of(item: Hashable) -> Hashable:
    """The cluster of an item: the first part of a tuple, as in (goal, prompt); other items are their own cluster."""
    return item[0] if isinstance(item, tuple) else item


def item_of(text: Hashable) -> Hashable:
    """The item of a text that is named by a tuple which ends in its sample; other texts are their own item."""
    return text[:-1] if isinstance(text, tuple) else text


def by_cluster(*parts: Mapping[Any, Any]) -> dict[Hashable, Any]:
    """The sum of each cluster's values, over the items of all parts."""
    total = defaultdict[Hashable, Any](int)
    for part in parts:
        for item, value in part.items():
            total[cluster_of(item)] += value
    return total


def rate_by_item(values: Sequence[float], items: Sequence[Hashable]) -> Estimate:
    """The share of True, or the mean of shares, with Wilson's interval. `items` names each value's prompt.

    Each prompt counts once, with the mean of its values. Texts of one prompt or goal are correlated, so Wilson's
    interval takes an effective sample size, from the variance between clusters; if all values are equal, it is the
    number of clusters. With one verdict per cluster this is `rate`.
    """
    if len(set(map(cluster_of, items))) == len(values) and set(values) <= {0, 1}:  # the usual case, at once
        return rate(int(sum(values)), len(values))
    mean, half, deviations = _clustered(values, items)
    return as_wide(mean, half, len(deviations))


def mean_of_rates(sets: Sequence[tuple[Sequence[float], Sequence[Hashable]]]) -> Estimate:
    """The mean, with equal weights, of the rates (`rate_by_item`) of several sets, given as (values, items)."""
    estimates = [rate_by_item(*own) for own in sets]
    return estimates[0] if len(sets) == 1 else mean_of_sets(estimates, [_clustered(*own)[2] for own in sets])


def mean_by_item(values: Sequence[float], items: Sequence[Hashable]) -> Estimate:
    """The mean with Student's t interval. With fewer than two clusters of items, low and high are the mean.

    Each item counts once, with the mean of its values. The interval does not go below 0 if no value does.
    """
    mean, half, _ = _clustered(values, items)
    return Estimate(mean, max(0.0, mean - half) if values and min(values) >= 0 else mean - half, mean + half)


def _clustered(values: Sequence[float], items: Sequence[Hashable]) -> tuple[float, float, Deviations]:
    """(mean, half the width of its t interval, the clusters' deviations); half is 0 if unknown."""
    if not values:
        return math.nan, 0.0, {}
    means = item_means(values, items)
    mean, deviations = sum(means.values()) / len(means), defaultdict[Hashable, float](float)
    for item, value in means.items():  # not by `by_cluster`, which would need a second dict of all items
        deviations[cluster_of(item)] += (value - mean) / len(means)
    return mean, half_width(deviations), deviations


def half_width(deviations: Deviations) -> float:
    """Half the width of the t interval of what clusters move by these amounts; 0 for equal values or one cluster."""
    squares, clusters = sum(deviation**2 for deviation in deviations.values()), len(deviations)
    variance = squares * clusters / (clusters - 1) if clusters > 1 else 0.0
    return student(clusters - 1) * math.sqrt(variance) if variance else 0.0


def item_means(values: Sequence[Any], items: Sequence[Hashable]) -> dict[Hashable, Any]:
    """The mean of each item's values."""
    means = dict(zip(items, values, strict=True))
    if len(means) == len(items):
        return means
    sizes = Counter(items)
    totals = defaultdict[Hashable, float](float)
    for value, item in zip(values, items, strict=True):
        totals[item] += value
    return {item: total / sizes[item] for item, total in totals.items()}


def as_wide(share: float, half: float, clusters: float) -> Estimate:
    """Wilson's interval for the number of verdicts that would give this half-width; for `clusters` if it has none."""
    effective = share * (1 - share) * (Z / half) ** 2 if half > ROUNDING else clusters
    return Estimate(share, *wilson(share * effective, effective))


def student(freedom: float, level: float = 1 - CONFIDENCE) -> float:
    """The upper `level` / 2 quantile of Student's t with `freedom` degrees of freedom."""
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    return -float(stdtrit(freedom, level / 2))


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the probability that one of `k` samples passes (Chen et al., 2021, equation 1).

    Raises ValueError unless 0 <= passed <= samples and 1 <= k <= samples.
    """
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise ValueError(
            f"pass@{k} of {passed} passed in {samples}: needs 0 <= passed <= samples and 1 <= k <= samples"
        )
    failing = 1.0  # C(samples - passed, k) / C(samples, k), as a product that cannot overflow
    for denominator in range(samples - passed + 1, samples + 1):
        failing *= max(0.0, 1 - k / denominator)
    return 1 - failing


def compare(first: Verdicts, second: Verdicts) -> tuple[Estimate, dict[str, int]]:
    """The second run's rate minus the first's, and the counts, over the ids that both runs have.

    `n` ids are decided in both; `gained` are True only in the second run, `lost` only in the first. `undecided` ids
    have no verdict in one of the runs. A prompt counts once, with the mean of its texts. The interval is Bonett and
    Price's (2012): Wald's with one discordant pair added each way, here of clusters with their mean difference. Unlike
    the bootstrap's, it keeps its coverage with few discordant pairs, or none.
    """
    pairs = {name: (first[name], second[name]) for name in first if name in second}
    decided = {name: pair for name, pair in pairs.items() if None not in pair}
    n, found = len(decided), list(decided.values())
    gained, lost = found.count((False, True)), found.count((True, False))
    counts = {"n": n, "gained": gained, "lost": lost, "undecided": len(pairs) - n}
    if not n:
        return UNKNOWN, counts
    changes = item_means([float(bool(after)) - bool(before) for before, after in found], list(map(item_of, decided)))
    difference = sum(changes.values()) / len(changes)
    off = by_cluster({item: (change - difference) / len(changes) for item, change in changes.items()}).values()
    clusters, centre = len(off) + 2, difference * len(off) / (len(off) + 2)
    square = (len(off) * (len(off) * sum(own**2 for own in off) + difference**2) + 2) / clusters
    half = Z * math.sqrt((square - centre**2) / clusters)
    return Estimate(difference, max(-1.0, centre - half), min(1.0, centre + half)), counts


def sign_flip(differences: Iterable[int]) -> float:
    """Exact two-sided p of the sum of integer differences, if each is equally likely to have the opposite sign.

    For differences of -1, 0 and 1 this is McNemar's exact test.
    """
    from numpy import array, zeros

    values = list(differences)
    sizes = Counter(abs(value) for value in values if value)
    total = sum(size * count for size, count in sizes.items())
    observed = (abs(sum(values)) + total) // 2
    if 2 * observed == total:  # no difference in either direction
        return 1.0
    chances = array([1.0])  # probabilities of the sum of the positive differences
    for size, count in sorted(sizes.items(), key=lambda pair: -pair[1]):
        grown = zeros(len(chances) + size * count)
        for positive, chance in enumerate(_binomial(count)):
            grown[size * positive : size * positive + len(chances)] += chance * chances
        chances = grown
    return min(1.0, 2 * float(chances[observed:].sum()))


@cache
def _binomial(count: int) -> Any:
    """The probabilities of 0 to `count` heads in so many tosses of a coin."""
    from scipy import stats

    return stats.binom.pmf(range(count + 1), count, 0.5)


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """p-values adjusted by Holm's method (1979), under the same keys."""
    if not p_values:
        return {}
    from statsmodels.stats.multitest import multipletests

    return dict(zip(p_values, map(float, multipletests(list(p_values.values()), method="holm")[1]), strict=True))


@cache
def detectable_difference(prompts: float, differing: float) -> float:
    """The smallest difference of two rates on the same prompts that McNemar's test at 5 % detects with `POWER`.

    `differing` is the share of prompts whose verdicts differ between the runs, raised to the difference if that is
    larger. Solves Connor's (1987) sample size formula; infinite if no difference would be detected.
    """
    from scipy.optimize import brentq

    def excess(difference: float) -> float:  # 0 at the detectable difference
        share = max(differing, difference)
        for_power = NORMAL.inv_cdf(POWER) * math.sqrt(share - difference**2)
        return difference * math.sqrt(prompts) - Z * math.sqrt(share) - for_power

    return float(brentq(excess, 1e-9, 1.0)) if excess(1.0) > 0 else math.inf


@dataclass(frozen=True)
class Variation:
    """A mean or a difference. `parts` are the components of its variance, from seeds and items: (variance, degrees of
    freedom, assumed upper bound of the variance).
    """

    value: float
    parts: Sequence[tuple[float, float, float]]

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(sum(variance for variance, *_ in self.parts))

    def half(self, level: float = 0.05) -> float:
        """Half the width of the interval that misses the true value with probability `level`."""
        normal = student(math.inf, level)
        squares = (
            min(variance * student(freedom, level) ** 2, max(variance, most) * normal**2)
            for variance, freedom, most in self.parts
        )
        return math.sqrt(sum(squares))

    def p(self) -> float:
        """The two-sided p-value of the hypothesis that the value is 0; 0 below `LEAST_P`."""
        from scipy.optimize import brentq

        def excess(log_p: float) -> float:  # 0 if the interval reaches 0
            return self.half(math.exp(log_p)) - abs(self.value)

        if self.value == 0:
            return 1.0
        least = math.log(LEAST_P)
        return math.exp(brentq(excess, least, 0.0)) if excess(least) > 0 else 0.0


def variation(sets: Sequence[tuple[Values, ...]], most: float = LARGEST_SD) -> Variation:
    """The mean of several sets' rates, or of their differences for pairs (variant, baseline), with its variance.

    A seed is shared by all sets, and a cluster may be. Each set has at least two clusters. A baseline with one seed (an
    untrained model) varies with its items only. `most` is `LARGEST_SD`, or infinite for values that are not
    rates.
    """
    count, signs = len(sets), (1, -1)
    crossed = [[_crossed(values) for values in arms] for arms in sets]
    value = sum(sign * arm.mean / count for arms in crossed for sign, arm in zip(signs, arms, strict=False))
    groups = list[tuple[dict[Hashable, Any], float, float]]()  # deviations, variance within, freedom
    for arms in crossed:
        signed = zip(signs, arms, strict=False)
        deviations = by_cluster(*({name: sign * off for name, off in arm.by_cluster.items()} for sign, arm in signed))
        within, freedom = sum(arm.residual for arm in arms), len(deviations) - 1.0
        for group in [group for group in groups if not group[0].keys().isdisjoint(deviations)]:  # share a cluster
            groups.remove(group)
            deviations, within, freedom = by_cluster(deviations, group[0]), within + group[1], min(freedom, group[2])
        groups.append((deviations, within, freedom))
    parts = []
    for deviations, within, freedom in groups:
        variance = sum(deviation**2 for deviation in deviations.values()) * (freedom + 1) / freedom - within
        parts.append((max(0.0, variance) / count**2, freedom, math.inf))
    for arm in zip(*crossed, strict=True):  # the variant in all sets, then the baseline
        by_seed = defaultdict[int, float](float)
        for table in arm:
            for seed, deviation in table.by_seed.items():
                by_seed[seed] += deviation / count
        if (seeds := len(by_seed)) > 1:
            slope = sum(table.mean * (1 - table.mean) / count for table in arm)  # change of the mean per logit
            residual = sum(table.residual / count**2 for table in arm)
            bound = residual + (most * slope) ** 2 / seeds if most < math.inf else most
            variance = sum(deviation**2 for deviation in by_seed.values()) * seeds / (seeds - 1)
            parts.append((variance, seeds - 1.0, bound))
    return Variation(value, parts)


class _Table(NamedTuple):
    """The mean over a table's items, of each item's mean over the seeds that have a value, and what it varies with."""

    mean: float
    by_seed: dict[int, float]  # how far each seed moves it
    by_cluster: dict[Hashable, float]  # how far each cluster does
    residual: float  # its variance within seeds and items


def _crossed(values: Values) -> _Table:
    import numpy as np

    items = sorted(next(iter(values.values())))
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(map(cluster_of, items)))}
    places = [numbers[cluster_of(item)] for item in items]
    table = np.array([[row[item] for item in items] for row in values.values()], dtype=float)  # None becomes nan
    known = ~np.isnan(table)
    cells = int(known.sum())
    weights = np.where(known, cells / len(items) / np.maximum(known.sum(0), 1), 0.0)  # all 1 if none is missing
    mean = float((weights * table)[known].mean())
    deviations = np.where(known, table - mean, 0.0)
    by_seed, by_item = deviations.sum(1), deviations.sum(0)
    residuals = deviations - (by_seed / np.maximum(known.sum(1), 1))[:, None] - by_item / np.maximum(known.sum(0), 1)
    own, rest = np.zeros(len(numbers)), np.zeros((len(numbers), len(values)))
    np.add.at(own, places, (weights * deviations).sum(0) / cells)
    np.add.at(rest, places, (weights * residuals).T)
    freedom = max(1, (len(values) - 1) * (len(numbers) - 1))
    variance = float((rest**2).sum()) * len(numbers) / len(items) / freedom / cells
    moves = ((weights * deviations).sum(1) / cells).tolist()
    return _Table(mean, dict(zip(values, moves, strict=True)), dict(zip(numbers, own.tolist(), strict=True)), variance)


def mean_over_seeds(values: Values) -> Estimate:
    """The mean of values by seed and item, with an interval for new seeds and new items of the same kind.

    An item counts once, with the mean of the seeds that have a value; other cells are left out of the sums (Cameron,
    Gelbach and Miller, 2011). The interval does not go below 0 if no value does.
    """
    mean = variation([(values,)], math.inf)
    low, high = mean.value - mean.half(), mean.value + mean.half()
    negative = any(value < 0 for by_item in values.values() for value in by_item.values() if value is not None)
    return Estimate(mean.value, low if negative else max(0.0, low), high)


def rate_over_seeds(*sets: Values) -> Estimate:
    """The share of True over seeds and items, or the mean of several sets' shares with equal weights.

    An item counts once, with the mean of the seeds that decided it. The interval is Wilson's for the sample size that
    matches the variance over seeds and items. If a set never varies, this lacks its uncertainty: then the interval also
    includes that of `mean_of_sets` of each set's own.
    """
    varied = [variation([(values,)]) for values in sets]
    deviations = [_crossed(values).by_cluster for values in sets]
    alone = [as_wide(min(1.0, v.value), v.half(), len(own)) for v, own in zip(varied, deviations, strict=True)]
    if len(sets) == 1:
        return alone[0]
    together, apart = variation([(values,) for values in sets]), mean_of_sets(alone, deviations)
    if together.half() <= ROUNDING:
        return apart
    share = as_wide(min(1.0, together.value), together.half(), 0)
    if all(own.half() > ROUNDING for own in varied):
        return share
    return Estimate(share.value, min(share.low, apart.low), max(share.high, apart.high))


def mean_of_sets(sets: Sequence[Estimate], deviations: Sequence[Deviations] = ()) -> Estimate:
    """The mean of sets' estimates, with equal weights.

    Bounds add by squares, and by products for correlated sets (Zou and Donner, 2008). The correlation is that of the
    sets' `deviations`, so it is 0 for sets without a common cluster, and without deviations. If a set never varies, its
    deviations count as equal: two such sets are correlated by their share of common clusters. Correlations that would
    narrow the interval, which few prompts give by chance, count as 0.
    """
    units: list[Deviations] = []  # of length 1
    for own in deviations or [{number: 1.0} for number in range(len(sets))]:
        size = math.hypot(*own.values())
        even = 1 / math.sqrt(len(own) or 1)
        units.append({cluster: d / size if size > ROUNDING else even for cluster, d in own.items()})
    value, arms = sum(estimate.value for estimate in sets) / len(sets), []
    for end in (1, 2):
        distances = [abs(estimate.value - estimate[end]) for estimate in sets]
        parts = (
            {cluster: d * part for cluster, part in unit.items()} for d, unit in zip(distances, units, strict=True)
        )
        arms.append(max(math.hypot(*distances), math.hypot(*by_cluster(*parts).values())) / len(sets))
    return Estimate(value, value - arms[0], value + arms[1])
