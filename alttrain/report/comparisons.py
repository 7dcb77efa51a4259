"""Every run against the No-train run of its backbone, prompt by prompt, and the report's one family of tests.

A contrast is a variant, over all its seeds, against its backbone's No-train: of the measure a benchmark has, by the
judge and the part that decide it, between numbers made by the same protocol, hash for hash; or of the mean over several
sets. Its test flips the sign of each prompt's difference, summed over the seeds: McNemar's for one seed.

The family is all contrasts of the report: every variant on every benchmark, and in every mean. Holm adjusts their p
once, and wherever a contrast is shown it has this p and this `p_holm`. What could not have shown is said, too:
`detectable` is the smallest change that as many prompts would show.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from alttrain.evaluation.statistics import Comparison, compare, holm, minimum_detectable_effect
from alttrain.report import items
from alttrain.report.columns import Column, mean_columns
from alttrain.report.estimates import balanced, matched, sign_flip
from alttrain.report.runs import Evaluation
from alttrain.report.variants import Made, Variant, baseline_of

NAN = math.nan
SEED = 0
"""Of the bootstrap: the same report has the same intervals."""
LEVEL = 0.05


class Contrast(NamedTuple):
    """From No-train on the same prompts: how much, its p, adjusted in the family, and the smallest that would show."""

    difference: float = NAN
    p: float = NAN
    p_holm: float = NAN
    detectable: float = NAN


Contrasts = Mapping[tuple[Variant, Column], Contrast]
Matched = tuple[dict[Any, int], float, int]
"""Each prompt's difference, the baseline's rate, and how many texts have a verdict in both."""


@dataclass(frozen=True)
class Compared:
    """A run's rate against its baseline's on the prompts both have a verdict on; a row of comparisons.csv.

    `p` and `p_holm` are those of the contrast: of all seeds of the variant.
    """

    run: str
    baseline: str
    benchmark: str
    metric: str
    baseline_value: float
    value: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    gained: int
    lost: int
    undecided: int
    detectable_decrease: float
    detectable_increase: float
    protocol: str = ""
    protocol_hash: str = ""

    @property
    def significant(self) -> bool:
        """Whether the difference holds at 5 % among all that were tested."""
        return self.p_holm < LEVEL


def comparisons(found: Sequence[Variant]) -> tuple[list[Compared], Contrasts]:
    """A comparison for each benchmark of each run whose backbone has a No-train run judged in the same way, by run and
    benchmark; and all contrasts, by variant and column."""
    rows: list[tuple[tuple[Variant, Column], Compared]] = []
    contrasts: dict[tuple[Variant, Column], Contrast] = {}
    means = {
        protocol: list(mean_columns([v for v in found if protocol in v.protocols()], protocol).values())
        for protocol in sorted({protocol for variant in found for protocol in variant.protocols()})
    }
    for _, alike in itertools.groupby(found, key=lambda variant: variant.backbone):
        own = list(alike)
        known: dict[tuple[Variant, Made], dict[int, items.Verdicts]] = {}  # a baseline is compared with many variants
        for variant in own:
            sets: dict[Made, Matched] = {}
            for made in variant.judged:
                baseline = baseline_of(variant, own, made)
                if variant.untrained or baseline is None or not (measure := _shared(variant, baseline, made)):
                    continue
                if (baseline, made) not in known:
                    known[baseline, made] = _verdicts(baseline, made)
                before, after = known[baseline, made], _verdicts(variant, made)
                sets[made] = matched(before, after)
                key = (variant, Column(measure, made[0], (made,)))
                contrasts[key] = _contrast([sets[made]])
                rows += [(key, one) for one in _each_seed(variant, baseline, made, before, after)]
            for column in (column for protocol in variant.protocols() for column in means[protocol]):
                if all(made in sets for made in column.made):
                    contrasts[variant, column] = _contrast([sets[made] for made in column.made])
    adjusted = holm({key: one.p for key, one in contrasts.items() if not math.isnan(one.p)})
    contrasts = {key: one._replace(p_holm=adjusted.get(key, NAN)) for key, one in contrasts.items()}
    told = [replace(row, p=contrasts[key].p, p_holm=contrasts[key].p_holm) for key, row in rows]
    return sorted(told, key=lambda row: (row.run, row.benchmark, row.protocol)), contrasts


def _shared(variant: Variant, baseline: Variant, made: Made) -> str:
    """The measure that all judged seeds of both have; "" where there is none, or an older version judged."""
    judged = [*variant.judged[made].values(), *baseline.judged[made].values()]
    measures = {str(one.judged["metrics"][0]["metric"]) for one in judged}
    return measures.pop() if len(measures) == 1 and all("decides" in one.analysis for one in judged) else ""


def _verdicts(variant: Variant, made: Made) -> dict[int, items.Verdicts]:
    return {seed: items.verdicts(one) for seed, one in variant.judged[made].items()}


def _contrast(sets: Sequence[Matched]) -> Contrast:
    """The difference, of the mean where there are several sets; nan where one has no prompt decided in both."""
    if not all(pairs for _, _, pairs in sets):
        return Contrast()
    before = sum(rate for _, rate, _ in sets) / len(sets)
    difference = sum(sum(found.values()) / pairs for found, _, pairs in sets) / len(sets)
    # as many prompts as would give one set's rate the variance of the mean
    prompts = round(len(sets) ** 2 / sum(1 / len(found) for found, _, _ in sets))
    p = sign_flip(balanced([(found, pairs) for found, _, pairs in sets]))
    return Contrast(difference, p, detectable=_detectable(before, prompts, difference))


def _detectable(before: float, n: int, difference: float) -> float:
    """The smallest change that way; for no difference at all, either way. Infinite where the rate has no such room."""
    effect = minimum_detectable_effect(before, n)
    known = [NAN if difference > 0 else effect.decrease, NAN if difference < 0 else effect.increase]
    return min((one for one in known if not math.isnan(one)), default=math.inf)


def _each_seed(
    variant: Variant,
    baseline: Variant,
    made: Made,
    before: Mapping[int, items.Verdicts],
    after: Mapping[int, items.Verdicts],
) -> list[Compared]:
    """A comparison for each seed, with the baseline's same seed, or with its first where that is not there."""
    rows = []
    for seed, one in variant.judged[made].items():
        other = seed if seed in before else next(iter(before))
        rows.append(_compared(baseline.judged[made][other], before[other], one, after[seed]))
    return rows


def _compared(baseline: Evaluation, before: items.Verdicts, one: Evaluation, after: items.Verdicts) -> Compared:
    pairs = [(before[key], after[key]) for key in before.keys() & after.keys()]
    decided = [pair for pair in pairs if None not in pair]
    n, gained, lost = len(decided), decided.count((False, True)), decided.count((True, False))
    found = _alike(n, gained, lost)
    rates = [sum(bool(pair[side]) for pair in decided) / n if n else NAN for side in (0, 1)]
    detectable = baseline.analysis["detectable"] or {}
    return Compared(
        run=one.run,
        baseline=baseline.run,
        benchmark=one.benchmark,
        metric=one.judged["metrics"][0]["metric"],
        baseline_value=rates[0],
        value=rates[1],
        difference=found.difference.value,
        low=found.difference.low,
        high=found.difference.high,
        p=NAN,
        p_holm=NAN,
        n=n,
        gained=gained,
        lost=lost,
        undecided=len(pairs) - n,
        detectable_decrease=_number(detectable.get("decrease")),
        detectable_increase=_number(detectable.get("increase")),
        **one.protocol,
    )


@cache
def _alike(n: int, gained: int, lost: int) -> Comparison:
    """The comparison of runs with so many prompts: nothing else tells in it, and in a large report many are alike."""
    before = {number: gained <= number < gained + lost for number in range(n)}
    after = {number: number < gained for number in range(n)}
    return compare(before, after, SEED)


def _number(value: float | None) -> float:
    return NAN if value is None else value
