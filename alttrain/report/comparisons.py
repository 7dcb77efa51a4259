"""Every run against the No-train run of its backbone, prompt by prompt, and the report's one family of tests.

A contrast is a variant, over all its seeds, against its backbone's No-train: of the measure a benchmark has, by the
judge and the part that decide it, between numbers made by the same protocol, hash for hash; or of the mean over several
sets. `estimates.contrast` is its test.

The family is all contrasts of the report: every variant on every benchmark, and in every mean. Holm adjusts their p
once, and wherever a contrast is shown it has this p and this `p_holm`, and `starred` says what that means. What
could not have shown is said, too: `detectable` is the smallest difference that this test on these prompts would show.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from alttrain.evaluation.statistics import compare, holm
from alttrain.report import items
from alttrain.report.columns import Column, mean_columns
from alttrain.report.estimates import Contrast, contrast
from alttrain.report.runs import Evaluation
from alttrain.report.variants import Made, Variant, baseline_of

NAN = math.nan
LEVEL = 0.05
STAR = "differs from No-train (5 %, Holm over the report's contrasts)"
ONE_SEED = "with one seed these weights differ, not yet the methods: other seeds were not tried (exact paired test)"
SEVERAL_SEEDS = "with several seeds the methods differ: the test allows for other seeds and other prompts"

Contrasts = Mapping[tuple[Variant, Column], Contrast]


def starred(seeds: Iterable[int]) -> str:
    """What a star says, of differences over so many seeds."""
    found = set(seeds)
    told = [ONE_SEED] if min(found) == 1 else []
    return f"{STAR}: {'; '.join([*told, *([SEVERAL_SEEDS] if max(found) > 1 else [])])}."


@dataclass(frozen=True)
class Compared:
    """A run's rate against its baseline's on the prompts both have a verdict on; a row of comparisons.csv.

    The interval is of these two runs. `p`, `p_holm` and `detectable` are those of the contrast, of all `seeds` of the
    variant.
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
    seeds: int
    detectable: float
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
            sets: dict[Made, tuple[dict[int, items.Verdicts], dict[int, items.Verdicts]]] = {}
            for made in variant.judged:
                baseline = baseline_of(variant, own, made)
                if variant.untrained or baseline is None or not (measure := _shared(variant, baseline, made)):
                    continue
                if (baseline, made) not in known:
                    known[baseline, made] = _verdicts(baseline, made)
                before, after = known[baseline, made], _verdicts(variant, made)
                sets[made] = after, before
                key = (variant, Column(measure, made[0], (made,)))
                contrasts[key] = contrast([sets[made]])
                rows += [(key, one) for one in _each_seed(variant, baseline, made, before, after)]
            for column in (column for protocol in variant.protocols() for column in means[protocol]):
                if all(made in sets for made in column.made):
                    contrasts[variant, column] = contrast([sets[made] for made in column.made])
    adjusted = holm({key: one.p for key, one in contrasts.items() if not math.isnan(one.p)})
    contrasts = {key: one._replace(p_holm=adjusted.get(key, NAN)) for key, one in contrasts.items()}
    told = [
        replace(row, p=one.p, p_holm=one.p_holm, detectable=one.detectable)
        for key, row in rows
        for one in [contrasts[key]]
    ]
    return sorted(told, key=lambda row: (row.run, row.benchmark, row.protocol)), contrasts


def _shared(variant: Variant, baseline: Variant, made: Made) -> str:
    """The measure that all judged seeds of both have; "" where there is none, or an older version judged."""
    judged = [*variant.judged[made].values(), *baseline.judged[made].values()]
    measures = {str(one.judged["metrics"][0]["metric"]) for one in judged}
    return measures.pop() if len(measures) == 1 and all("decides" in one.analysis for one in judged) else ""


def _verdicts(variant: Variant, made: Made) -> dict[int, items.Verdicts]:
    return {seed: items.verdicts(one) for seed, one in variant.judged[made].items()}


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
        rows.append(_compared(baseline.judged[made][other], before[other], one, after[seed], len(after)))
    return rows


def _compared(
    baseline: Evaluation, before: items.Verdicts, one: Evaluation, after: items.Verdicts, seeds: int
) -> Compared:
    found = compare(before, after)
    both = [key for key, verdict in after.items() if verdict is not None and before.get(key) is not None]
    rates = [sum(bool(own[key]) for key in both) / len(both) if both else NAN for own in (before, after)]
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
        n=found.n,
        gained=found.gained,
        lost=found.lost,
        undecided=found.undecided,
        seeds=seeds,
        detectable=NAN,
        **one.protocol,
    )
