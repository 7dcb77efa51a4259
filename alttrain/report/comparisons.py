"""Each run against the No-train run of its backbone, prompt by prompt, and the report's single family of tests.

A contrast compares a variant, over all its seeds, with No-train of the same backbone. It is made for the deciding
measure of each benchmark, and for each mean over several benchmarks, between numbers with the same protocol hash.
`estimates.contrast` is its test.

The family is all contrasts of the report: every variant on every benchmark and in every mean. Their p-values are
adjusted together by Holm's method. Every place that shows a contrast uses this p and this `p_holm`; `starred` words
what a star means. `detectable` is the smallest difference that the test on these prompts would detect.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from alttrain.evaluation.statistics import compare, holm
from alttrain.report.estimates import Contrast, contrast
from alttrain.report.results import Evaluation, Made, Verdicts
from alttrain.report.variants import Column, Variant, baseline_of, mean_columns, protocols_of

NAN = math.nan
LEVEL = 0.05
STAR = "differs from No-train (5 %, Holm over the report's contrasts)"
ONE_SEED = "with one seed these weights differ, not yet the methods: other seeds were not tried (exact paired test)"
SEVERAL_SEEDS = "with several seeds the methods differ: the test allows for other seeds and other prompts"
COMPARED = [
    *("run", "baseline", "benchmark", "metric", "baseline_value", "value", "difference", "low", "high", "p", "p_holm"),
    *("n", "gained", "lost", "undecided", "seeds", "detectable", "protocol", "protocol_hash"),
]
"""The columns of comparisons.csv."""

Contrasts = Mapping[tuple[Variant, Column], Contrast]


def starred(seeds: Iterable[int]) -> str:
    """The meaning of a star, for differences over these numbers of seeds."""
    found = set(seeds)
    meanings = [ONE_SEED] if min(found) == 1 else []
    return f"{STAR}: {'; '.join([*meanings, *([SEVERAL_SEEDS] if max(found) > 1 else [])])}."


def comparisons(found: Sequence[Variant]) -> tuple[pd.DataFrame, Contrasts]:
    """The rows of comparisons.csv, by run and benchmark, and all contrasts, by variant and column.

    There is a row for each benchmark of a run whose backbone has a No-train run judged in the same way. Its values and
    interval are those of the two runs. `p`, `p_holm` and `detectable` are those of the contrast over all `seeds` of the
    variant.
    """
    rows: list[tuple[tuple[Variant, Column], dict[str, Any]]] = []
    contrasts: dict[tuple[Variant, Column], Contrast] = {}
    means = {name: list(mean_columns(own, name).values()) for name, own in protocols_of(found).items()}
    for _, alike in itertools.groupby(found, key=lambda variant: variant.backbone):
        own = list(alike)
        known: dict[tuple[Variant, Made], dict[int, Verdicts]] = {}  # a baseline is compared with many variants
        for variant in own:
            sets: dict[Made, tuple[dict[int, Verdicts], dict[int, Verdicts]]] = {}
            for made in variant.judged:
                baseline = baseline_of(variant, own, made)
                if variant.untrained or baseline is None or not (measure := _shared(variant, baseline, made)):
                    continue
                if (baseline, made) not in known:
                    known[baseline, made] = {seed: one.verdicts() for seed, one in baseline.judged[made].items()}
                before = known[baseline, made]
                after = {seed: one.verdicts() for seed, one in variant.judged[made].items()}
                sets[made] = after, before
                key = (variant, Column(measure, made[0], (made,)))
                contrasts[key] = contrast([sets[made]])
                for seed, one in variant.judged[made].items():  # against the same seed of the baseline, else its first
                    other = seed if seed in before else next(iter(before))
                    row = _compared(baseline.judged[made][other], before[other], one, after[seed])
                    rows.append((key, row | {"seeds": len(after)}))
            for column in (column for name in {made[0] for made in variant.judged} for column in means[name]):
                if all(made in sets for made in column.made):
                    contrasts[variant, column] = contrast([sets[made] for made in column.made])
    adjusted = holm({key: one.p for key, one in contrasts.items() if not math.isnan(one.p)})
    contrasts = {key: one._replace(p_holm=adjusted.get(key, NAN)) for key, one in contrasts.items()}
    tested = [{**contrasts[key]._asdict(), **row} for key, row in rows]
    frame = pd.DataFrame(tested, columns=COMPARED)
    return frame.sort_values(["run", "benchmark", "protocol"], kind="stable", ignore_index=True), contrasts


def _shared(variant: Variant, baseline: Variant, made: Made) -> str:
    """The measure that all judged seeds of both have; "" if there is none, or if an older version judged."""
    judged = [*variant.judged[made].values(), *baseline.judged[made].values()]
    measures = {one.measure for one in judged}
    return measures.pop() if len(measures) == 1 and all(one.decides for one in judged) else ""


def _compared(baseline: Evaluation, before: Verdicts, one: Evaluation, after: Verdicts) -> dict[str, Any]:
    """A run's rate against its baseline's, on the prompts that have a verdict in both."""
    difference, counts = compare(before, after)
    both = [key for key, verdict in after.items() if verdict is not None and before.get(key) is not None]
    rates = [sum(bool(own[key]) for key in both) / len(both) if both else NAN for own in (before, after)]
    names = {"run": one.run, "baseline": baseline.run, "benchmark": one.benchmark, "metric": one.measure}
    values = {"baseline_value": rates[0], "value": rates[1], "difference": difference.value}
    made = {"protocol": one.protocol, "protocol_hash": one.made[2]}
    return {**names, **values, **counts, **made, "low": difference.low, "high": difference.high}
