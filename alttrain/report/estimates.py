"""Estimates over the seeds of a variant, over several benchmarks, and the test against No-train.

- one seed      Wilson's interval, as everywhere; several: seeds and prompts both vary (`rate_over_seeds`)
- several sets  the mean of their rates. For one seed the sets are independent, and bounds add in squares (Zou and
                Donner, 2008); for several the same training is behind all sets, and bounds are averaged: that is wider
- the test      sign-flipping of each prompt's difference, summed over the seeds: exact, and McNemar's for one seed. It
                asks whether these trained models differ on prompts of this kind; the interval also asks about seeds
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar, cast

from alttrain.evaluation.statistics import (
    UNKNOWN,
    Estimate,
    Verdicts,
    mean_by_item,
    mean_over_seeds,
    rate_by_item,
    rate_over_seeds,
    wilson,
)

Text = TypeVar("Text", bound=tuple[Hashable, ...])
"""(..., prompt, sample): what a value is of."""
Values = Mapping[Text, float | None]
_SAMPLE = itemgetter(-1)
GRAIN = 8
"""Units that a prompt of the largest set counts for in a mean over sets; others count more, in whole units."""


def share(seeds: Mapping[int, Values[Any]]) -> Estimate:
    """The share of True verdicts, and its interval."""
    if len(seeds) == 1:
        (own,) = seeds.values()
        known = {text: bool(verdict) for text, verdict in own.items() if verdict is not None}
        return rate_by_item(list(known.values()), [text[:-1] for text in known])
    crossed = _crossed(seeds)
    if _too_few(crossed):
        values = [value for own in crossed.values() for value in own.values() if value is not None]
        if not values:
            return UNKNOWN
        items = len({name for own in crossed.values() for name, value in own.items() if value is not None})
        mean = math.fsum(values) / len(values)
        return Estimate(mean, *wilson(mean * items, items))
    return rate_over_seeds(cast(Mapping[int, Verdicts], crossed)).estimate


def mean(seeds: Mapping[int, Values[Any]]) -> Estimate:
    """The mean of values, and its interval."""
    crossed = _crossed(seeds)
    if len(seeds) > 1 and not _too_few(crossed):
        return mean_over_seeds(crossed).estimate
    known = [(value, text[:-1]) for own in seeds.values() for text, value in own.items() if value is not None]
    return mean_by_item([value for value, _ in known], [prompt for _, prompt in known])


def _crossed(seeds: Mapping[int, Values[Any]]) -> dict[int, dict[Any, float | None]]:
    """Values by seed and prompt. A prompt's texts are averaged; one without a value in any seed is left out."""
    if any(any(map(_SAMPLE, own)) for own in seeds.values()):
        seeds = {seed: _averaged(own) for seed, own in seeds.items()}
    names = {name for own in seeds.values() for name, value in own.items() if value is not None}
    return {seed: {name: own.get(name) for name in names} for seed, own in seeds.items()}


def _averaged(own: Values[Any]) -> dict[Any, float | None]:
    by_prompt: dict[Any, list[float]] = defaultdict(list)
    for text, value in own.items():
        if value is not None:
            by_prompt[text[:-1]].append(float(value))
    return {(*prompt, 0): math.fsum(values) / len(values) for prompt, values in by_prompt.items()}


def _too_few(crossed: Mapping[int, Mapping[Any, float | None]]) -> bool:
    """Whether fewer than two seeds or two prompts have a value: then there is nothing to cross."""
    there = [{name for name, value in own.items() if value is not None} for own in crossed.values()]
    return sum(map(bool, there)) < 2 or len(set().union(*there)) < 2


def mean_of_sets(sets: Sequence[Estimate], seeds: int) -> Estimate:
    """The mean of several sets' estimates, each set counting alike."""
    count = len(sets)
    value = sum(one.value for one in sets) / count
    if seeds > 1:
        return Estimate(value, sum(one.low for one in sets) / count, sum(one.high for one in sets) / count)
    below, above = (
        math.sqrt(sum((one.value - end) ** 2 for one, end in zip(sets, ends, strict=True))) / count
        for ends in ([one.low for one in sets], [one.high for one in sets])
    )
    return Estimate(value, value - below, value + above)


def matched(baseline: Mapping[int, Values[Any]], own: Mapping[int, Values[Any]]) -> tuple[dict[Any, int], float, int]:
    """(each prompt's difference, summed over seeds and samples; the baseline's rate; texts with a verdict in both).

    A seed is matched with the baseline's same seed, or with its first where that is not there.
    """
    differences: dict[Any, int] = defaultdict(int)
    hits = pairs = 0
    for seed, after in own.items():
        before = baseline.get(seed) or next(iter(baseline.values()))
        for text, verdict in after.items():
            other = before.get(text)
            if verdict is not None and other is not None:
                differences[text[:-1]] += int(verdict) - int(other)
                hits += int(other)
                pairs += 1
    return dict(differences), hits / pairs if pairs else math.nan, pairs


def sign_flip(differences: Iterable[int]) -> float:
    """Two-sided p of the sum of whole-numbered differences, each as likely to be of the other sign; exact.

    For differences of -1, 0 and 1 it is McNemar's exact test.
    """
    from numpy import array, zeros
    from scipy import stats

    found = list(differences)
    sizes = Counter(abs(value) for value in found if value)
    total = sum(size * count for size, count in sizes.items())
    observed = (abs(sum(found)) + total) // 2
    if 2 * observed == total:  # no difference either way
        return 1.0
    chances = array([1.0])  # of the sum of those that are positive
    for size, count in sorted(sizes.items(), key=lambda pair: -pair[1]):
        grown = zeros(len(chances) + size * count)
        for positive, chance in enumerate(stats.binom.pmf(range(count + 1), count, 0.5)):
            grown[size * positive : size * positive + len(chances)] += chance * chances
        chances = grown
    return min(1.0, 2 * float(chances[observed:].sum()))


def balanced(sets: Sequence[tuple[Mapping[Any, int], int]]) -> list[int]:
    """Differences of several sets (with each set's texts), weighed so that every set counts alike."""
    if len(sets) == 1:
        return list(sets[0][0].values())
    largest = max(texts for _, texts in sets)
    return [round(GRAIN * largest / texts) * value for found, texts in sets for value in found.values()]
