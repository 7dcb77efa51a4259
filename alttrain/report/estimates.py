"""Estimates over the seeds of a variant and over several benchmarks ("sets"), and the test against No-train.

- one seed       Wilson's interval; several sets are independent, and their bounds combine by adding squares (Zou and
                 Donner, 2008)
- several seeds  seeds and prompts both vary; a seed's training is shared by all sets (`rate_over_seeds`)
- the test       for one seed: the exact sign-flip test over the prompts' differences (McNemar's for one set), which
                 distinguishes two sets of weights. For several seeds, p is the larger of this and the p of `variation`,
                 in which seeds and prompts both vary; it distinguishes methods

scripts/simulate_statistics.py measures how often the intervals cover and the test errs.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from alttrain.evaluation.statistics import (
    NORMAL,
    POWER,
    UNKNOWN,
    Estimate,
    detectable_difference,
    mean_by_item,
    mean_over_seeds,
    rate_by_item,
    rate_over_seeds,
    variation,
    wilson,
)

NAN = math.nan
Text = TypeVar("Text", bound=tuple[Hashable, ...])
"""(..., prompt, sample): the key of a value."""
Values = Mapping[Text, float | None]
Seeds = Mapping[int, Values[Any]]
Crossed = dict[int, dict[Any, float | None]]
GRAIN = 8
"""Integer weight of a prompt of the largest set in a mean over sets; prompts of smaller sets weigh more."""


def share(*sets: Seeds) -> Estimate:
    """The share of True verdicts, or the mean of shares, with its interval.

    For several sets this is their mean with equal weights, over the seeds that all sets have.
    """
    common = _common(sets)
    crossed = [_crossed({seed: seeds[seed] for seed in common}) for seeds in sets]
    if len(common) > 1 and not any(map(_too_few, crossed)):
        return rate_over_seeds(*crossed)
    return mean_of_sets([_share(seeds) for seeds in sets])


def _share(seeds: Seeds) -> Estimate:
    """The share of one set, if there are no seeds to cross."""
    if len(seeds) == 1:
        (own,) = seeds.values()
        known = {text: verdict for text, verdict in own.items() if verdict is not None}
        return rate_by_item(list(known.values()), [text[:-1] for text in known])
    crossed = _crossed(seeds)
    values = [value for own in crossed.values() for value in own.values() if value is not None]
    if not values:
        return UNKNOWN
    items = len({name for own in crossed.values() for name, value in own.items() if value is not None})
    mean = math.fsum(values) / len(values)
    return Estimate(mean, *wilson(mean * items, items))


def mean(seeds: Seeds) -> Estimate:
    """The mean of the values, with its interval."""
    crossed = _crossed(seeds)
    if len(seeds) > 1 and not _too_few(crossed):
        return mean_over_seeds(crossed)
    known = [(value, text[:-1]) for own in seeds.values() for text, value in own.items() if value is not None]
    return mean_by_item([value for value, _ in known], [prompt for _, prompt in known])


def _crossed(seeds: Seeds) -> Crossed:
    """Values by seed and prompt. The texts of a prompt are averaged; a prompt without any value is left out."""
    averaged: dict[int, dict[Any, float]] = {}
    for seed, own in seeds.items():
        by_prompt: dict[Any, list[float]] = defaultdict(list)
        for text, value in own.items():
            if value is not None:
                by_prompt[text[:-1]].append(float(value))
        averaged[seed] = {prompt: math.fsum(values) / len(values) for prompt, values in by_prompt.items()}
    names = set[Any]().union(*averaged.values())
    return {seed: {name: own.get(name) for name in names} for seed, own in averaged.items()}


def _too_few(crossed: Crossed) -> bool:
    """Whether fewer than two seeds or fewer than two prompts have a value."""
    there = [{name for name, value in own.items() if value is not None} for own in crossed.values()]
    return sum(map(bool, there)) < 2 or len(set().union(*there)) < 2


def mean_of_sets(sets: Sequence[Estimate]) -> Estimate:
    """The mean of the estimates of independent sets, with equal weights."""
    count = len(sets)
    value = sum(one.value for one in sets) / count
    below, above = (
        math.sqrt(sum((one.value - end) ** 2 for one, end in zip(sets, ends, strict=True))) / count
        for ends in ([one.low for one in sets], [one.high for one in sets])
    )
    return Estimate(value, value - below, value + above)


class Contrast(NamedTuple):
    """A difference from No-train on the same prompts, its p, p adjusted by Holm, and the detectable difference."""

    difference: float = NAN
    p: float = NAN
    p_holm: float = NAN
    detectable: float = NAN


def contrast(sets: Sequence[tuple[Seeds, Seeds]]) -> Contrast:
    """Test a variant's verdicts against the baseline's.

    `sets` are pairs (own, baseline); for several sets the difference is their mean with equal weights. `detectable` is
    the difference that the test at 5 %, before Holm, detects with a power of 80 %. Values are nan if a set has no
    prompt that is decided in both.
    """
    found = [matched(baseline, own) for own, baseline in sets]
    if not all(pairs for _, pairs in found):
        return Contrast()
    difference = sum(sum(changes.values()) / pairs for changes, pairs in found) / len(sets)
    p = sign_flip(balanced(found))
    # the size of a single set whose rate would have the variance of the mean, and the share of its prompts that differ
    prompts = len(sets) ** 2 / sum(1 / len(changes) for changes, _ in found)
    squares = [(sum(value**2 for value in own.values()) * (len(own) / pairs) ** 2, len(own)) for own, pairs in found]
    differing = sum((square + 2) / (n + 2) / n for square, n in squares) / len(sets) ** 2 * prompts
    detectable = detectable_difference(prompts, differing)
    seeds = _common([own for own, _ in sets])
    crossed = [_crossed_alike({seed: own[seed] for seed in seeds}, baseline) for own, baseline in sets]
    if len(seeds) > 1 and all(len(next(iter(arms[0].values()))) > 1 for arms in crossed):
        varied = variation(crossed)
        difference, p = varied.value, max(p, varied.p())
        detectable = max(detectable, varied.half() + NORMAL.inv_cdf(POWER) * varied.error)
    return Contrast(difference, p, detectable=detectable)


def _common(sets: Sequence[Seeds]) -> list[int]:
    """The seeds that have a value in every set."""
    there = [{seed for seed, own in seeds.items() if any(v is not None for v in own.values())} for seeds in sets]
    return sorted(set.intersection(*there))


def _crossed_alike(*arms: Seeds) -> tuple[Crossed, ...]:
    """Values by seed and prompt, for the prompts that have a value in each arm."""
    crossed = [_crossed(seeds) for seeds in arms]
    names = set.intersection(*(set(next(iter(own.values()), ())) for own in crossed))
    return tuple({seed: {name: own[name] for name in names} for seed, own in arm.items()} for arm in crossed)


def matched(baseline: Seeds, own: Seeds) -> tuple[dict[Any, int], int]:
    """(difference by prompt, summed over seeds and samples; number of texts with a verdict in both).

    A seed is matched with the same seed of the baseline, or with its first seed if that is absent.
    """
    differences: dict[Any, int] = defaultdict(int)
    pairs = 0
    for seed, after in own.items():
        before = baseline.get(seed) or next(iter(baseline.values()))
        for text, verdict in after.items():
            other = before.get(text)
            if verdict is not None and other is not None:
                differences[text[:-1]] += int(verdict) - int(other)
                pairs += 1
    return dict(differences), pairs


def sign_flip(differences: Iterable[int]) -> float:
    """Exact two-sided p of the sum of integer differences, if each is equally likely to have the opposite sign.

    For differences of -1, 0 and 1 this is McNemar's exact test.
    """
    from numpy import array, zeros
    from scipy import stats

    found = list(differences)
    sizes = Counter(abs(value) for value in found if value)
    total = sum(size * count for size, count in sizes.items())
    observed = (abs(sum(found)) + total) // 2
    if 2 * observed == total:  # no difference in either direction
        return 1.0
    chances = array([1.0])  # probabilities of the sum of the positive differences
    for size, count in sorted(sizes.items(), key=lambda pair: -pair[1]):
        grown = zeros(len(chances) + size * count)
        for positive, chance in enumerate(stats.binom.pmf(range(count + 1), count, 0.5)):
            grown[size * positive : size * positive + len(chances)] += chance * chances
        chances = grown
    return min(1.0, 2 * float(chances[observed:].sum()))


def balanced(sets: Sequence[tuple[Mapping[Any, int], int]]) -> list[int]:
    """Differences of several (differences, number of texts) sets, with integer weights so that sets count equally."""
    if len(sets) == 1:
        return list(sets[0][0].values())
    largest = max(texts for _, texts in sets)
    return [round(GRAIN * largest / texts) * value for found, texts in sets for value in found.values()]
