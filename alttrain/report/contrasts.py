"""Differences between numbers on the same prompts: from No-train, and from the same run without an intervention.

The test is, for one seed, the exact sign-flip test over the prompts' differences (McNemar's for one set), which
distinguishes two sets of weights. For several seeds, p is the larger of this and the p of `variation`, in which seeds
and prompts both vary; it distinguishes methods.

Contrasts with No-train are made for the deciding measure of each benchmark and for each mean, between numbers with the
same protocol hash. They are one family in a report: Holm's method adjusts their p-values together. Contrasts of
interventions are another. scripts/simulate_statistics.py measures how often the test errs.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from alttrain.evaluation import statistics
from alttrain.evaluation.statistics import UNKNOWN
from alttrain.report.estimates import NAN, Crossed, Seeds, common_seeds, cross, share
from alttrain.report.evaluation import Evaluation, Made, Verdicts
from alttrain.report.variants import Column, Variant, mean_columns, protocols_of

Key = TypeVar("Key", bound=Hashable)
GRAIN = 8  # integer weight of a prompt of the largest set in a mean over sets; prompts of smaller sets weigh more
COMPARED = [
    "run", "baseline", "benchmark", "metric", "baseline_value", "value", "difference", "low", "high", "p", "p_holm",
    "n", "gained", "lost", "undecided", "seeds", "detectable", "protocol", "protocol_hash", "judge",
]  # fmt: skip
"""The columns of comparisons.csv."""


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
    detectable = statistics.detectable_difference(prompts, differing)
    seeds = common_seeds([own for own, _ in sets])
    crossed = [_crossed_alike({seed: own[seed] for seed in seeds}, baseline) for own, baseline in sets]
    if len(seeds) > 1 and all(len(next(iter(arms[0].values()))) > 1 for arms in crossed):
        varied = statistics.variation(crossed)
        difference, p = varied.value, max(p, varied.p())
        detectable = max(detectable, varied.half() + statistics.NORMAL.inv_cdf(statistics.POWER) * varied.error)
    return Contrast(difference, p, detectable=detectable)


def _crossed_alike(*arms: Seeds) -> tuple[Crossed, ...]:
    """Values by seed and prompt, for the prompts that have a value in each arm."""
    crossed = [cross(seeds) for seeds in arms]
    names = set.intersection(*(set(next(iter(own.values()), ())) for own in crossed))
    return tuple(
        {seed: own if own.keys() == names else {name: own[name] for name in names} for seed, own in arm.items()}
        for arm in crossed
    )


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

    found = list(differences)
    sizes = Counter(abs(value) for value in found if value)
    total = sum(size * count for size, count in sizes.items())
    observed = (abs(sum(found)) + total) // 2
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


def balanced(sets: Sequence[tuple[Mapping[Any, int], int]]) -> list[int]:
    """Differences of several (differences, number of texts) sets, with integer weights so that sets count equally."""
    if len(sets) == 1:
        return list(sets[0][0].values())
    largest = max(texts for _, texts in sets)
    return [round(GRAIN * largest / texts) * value for found, texts in sets for value in found.values()]


Contrasts = Mapping[tuple[Variant, Column], Contrast]


def comparisons(found: Sequence[Variant]) -> tuple[pd.DataFrame, Contrasts]:
    """The rows of comparisons.csv, by run and benchmark, and all contrasts, by variant and column.

    There is a row for each benchmark of a run whose backbone has a No-train run judged in the same way. Its values and
    interval are those of the two runs. `p`, `p_holm` and `detectable` are those of the contrast over all `seeds` of the
    variant.
    """
    rows: list[tuple[tuple[Variant, Column], dict[str, Any]]] = []
    contrasts: dict[tuple[Variant, Column], Contrast] = {}
    means = {name: list(mean_columns(own, name).values()) for name, own in protocols_of(found).items()}

    @cache  # a baseline is compared with many variants
    def verdicts_of(baseline: Variant, made: Made) -> dict[int, Verdicts]:
        return {seed: one.verdicts() for seed, one in baseline.judged[made].items()}

    for variant in found:
        sets: dict[Made, tuple[dict[int, Verdicts], dict[int, Verdicts]]] = {}
        for made, judged in variant.judged.items():
            # the untrained backbone judged in the same way: an unmodified one first, then one with the same dataset
            among = [v for v in found if v.untrained and v.backbone == variant.backbone and made in v.judged]
            baseline = min(among, key=lambda v: (bool(v.changed), v.dataset != variant.dataset), default=variant)
            both = [*judged.values(), *baseline.judged[made].values()]
            measure = both[0].measure
            if variant.untrained or baseline is variant or any(one.measure != measure for one in both):
                continue
            before, after = verdicts_of(baseline, made), {seed: one.verdicts() for seed, one in judged.items()}
            sets[made] = after, before
            key = (variant, Column(measure, made[0], (made,)))
            contrasts[key] = contrast([sets[made]])
            for seed, one in judged.items():  # against the same seed of the baseline, else its first
                other = seed if seed in before else next(iter(before))
                row = _compared(baseline.judged[made][other], before[other], one, after[seed])
                rows.append((key, row | {"seeds": len(after)}))
        for column in (column for name in {made[0] for made in variant.judged} for column in means[name]):
            if all(made in sets for made in column.made):
                contrasts[variant, column] = contrast([sets[made] for made in column.made])
    frame, contrasts = _family(rows, contrasts, COMPARED)
    return frame.sort_values(["run", "benchmark", "protocol"], kind="stable", ignore_index=True), contrasts


def _family(
    rows: Iterable[tuple[Key, dict[str, Any]]], contrasts: Mapping[Key, Contrast], columns: Sequence[str]
) -> tuple[pd.DataFrame, dict[Key, Contrast]]:
    """The frame of compared rows, each with its contrast, and the contrasts, which Holm's method adjusts together."""
    adjusted = statistics.holm({key: one.p for key, one in contrasts.items() if not math.isnan(one.p)})
    whole = {key: one._replace(p_holm=adjusted.get(key, NAN)) for key, one in contrasts.items()}
    return pd.DataFrame([{**whole[key]._asdict(), **row} for key, row in rows], columns=columns), whole


INTERVENED = ["intervention", "share", "left_out", *COMPARED, "rate_low", "rate_high", "of_hash"]
"""The columns of interventions.csv.

`share` is the part of the thought that a cut keeps, `rate_low` to `rate_high` the interval of `value`, and `of_hash`
the hash of how the number without the intervention was made.
"""
DECIDED = [
    "run", "benchmark", "protocol", "protocol_hash", "judge", "cuts", "n", "undecided", "share", "low", "high", "flips",
    "moved",
]  # fmt: skip
"""The columns of decided.csv."""


def interventions(found: Sequence[Variant]) -> tuple[pd.DataFrame, dict[tuple[Variant, Made], Contrast]]:
    """The rows of interventions.csv, and the contrast of each variant and intervened benchmark.

    A row compares a run's benchmark under an intervention with the same run's benchmark without it, on the prompts that
    have a verdict in both, if both were judged and otherwise made in the same way. `left_out` counts the texts that the
    intervention does not apply to. The contrasts are a family of their own for Holm's method.
    """
    rows: list[tuple[tuple[Variant, Made], dict[str, Any]]] = []
    contrasts: dict[tuple[Variant, Made], Contrast] = {}
    for variant in found:
        plain = {(made, seed): one for made, seeds in variant.judged.items() for seed, one in seeds.items()}
        for made, seeds in variant.judged.items():
            pairs = {
                seed: (base, one)
                for seed, one in seeds.items()
                if one.intervention and (base := plain.get((base_of(one), seed)))
            }
            if not pairs:
                continue
            before, after = ({seed: pair[at].verdicts() for seed, pair in pairs.items()} for at in (0, 1))
            contrasts[variant, made] = contrast([(after, before)])
            for seed, (base, one) in pairs.items():
                row = _compared(base, before[seed], one, after[seed])
                both = {text: own for text, own in after[seed].items() if before[seed].get(text) is not None}
                _, low, high = share({seed: both}) if row["n"] else UNKNOWN
                row |= {"intervention": one.intervention["name"], "left_out": one.intervention["left_out"]}
                row |= {"share": kept_by(one), "rate_low": low, "rate_high": high, "of_hash": base.made[2]}
                rows.append(((variant, made), row | {"benchmark": base.benchmark, "seeds": len(pairs)}))
    return _family(rows, contrasts, INTERVENED)


def base_of(one: Evaluation) -> Made:
    """How the number without an evaluation's intervention is made; one that was made otherwise is not compared."""
    return one.protocol, one.intervention["of"], one.intervention["of_hash"]


def kept_by(one: Evaluation) -> float:
    """The share of the thought that a cut keeps; nan for other interventions."""
    settings = one.intervention["settings"]
    return float(settings["share"]) if settings["_target_"].endswith(".Cut") else NAN


def decided(found: Sequence[Variant]) -> pd.DataFrame:
    """The rows of decided.csv: where in the thought the outcome is decided, by the run's cuts.

    `share` is the mean, over the prompts with a verdict at each of the `cuts`, of the shortest share of the thought
    from which on the outcome stays the same, with its interval. `flips` counts the changes of outcome from cut to cut
    per 100 thoughts, and `moved` is the share of prompts whose first and last outcome differ. `undecided` prompts lack
    a verdict at one of the cuts.
    """
    rows = []
    for variant in found:
        cuts: dict[tuple[Any, ...], dict[float, Evaluation]] = defaultdict(dict)
        for seeds in variant.judged.values():
            for one in seeds.values():
                if one.intervention and not math.isnan(share := kept_by(one)):
                    cuts[one.run, *base_of(one)][share] = one
        for (run, protocol, benchmark, digest), judged in cuts.items():
            shares, by_share = sorted(judged), {share: one.verdicts() for share, one in judged.items()}
            texts = set[Any].intersection(*(set(own) for own in by_share.values()))
            paths = {text: [by_share[share][text] for share in shares] for text in sorted(texts)}
            known = {text: path for text, path in paths.items() if None not in path}
            if len(shares) < 2 or not known:
                continue
            changes = [[at for at in range(1, len(path)) if path[at] != path[at - 1]] for path in known.values()]
            settled = [shares[max(own, default=0)] for own in changes]
            value, low, high = statistics.mean_by_item(settled, [text[:-1] for text in known])
            moved = sum(path[0] != path[-1] for path in known.values()) / len(known)
            counts = [len(shares), len(known), len(paths) - len(known)]
            names, flips = [run, benchmark, protocol, digest, judged[shares[0]].judge], sum(map(len, changes))
            rows.append([*names, *counts, value, low, high, 100 * flips / len(known), moved])
    return pd.DataFrame(rows, columns=DECIDED)


def _compared(baseline: Evaluation, before: Verdicts, one: Evaluation, after: Verdicts) -> dict[str, Any]:
    """A run's rate against its baseline's, on the prompts that have a verdict in both.

    With several texts a prompt, the rates are means over prompts, whose texts are correlated.
    """
    (difference, low, high), counts = statistics.compare(before, after)
    both = [key for key, verdict in after.items() if verdict is not None and before.get(key) is not None]
    rates = [sum(bool(own[key]) for key in both) / len(both) if both else NAN for own in (before, after)]
    if 1 < len({key[:-1] for key in both}) < len(both):
        own, base = _crossed_alike(*({0: {key: arm[key] for key in both}} for arm in (after, before)))
        varied = statistics.variation([(own, base)])
        difference, half = varied.value, varied.half()
        low, high = max(-1.0, difference - half), min(1.0, difference + half)
        rates = [math.fsum(value or 0 for value in arm[0].values()) / len(arm[0]) for arm in (base, own)]
    names = {"run": one.run, "baseline": baseline.run, "benchmark": one.benchmark, "metric": one.measure}
    names |= {"protocol": one.protocol, "protocol_hash": one.made[2], "judge": one.judge}
    values = {"baseline_value": rates[0], "value": rates[1], "difference": difference, "low": low, "high": high}
    return {**names, **values, **counts}
