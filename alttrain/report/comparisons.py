"""Every run against the No-train run of its backbone, prompt by prompt: paired bootstrap, McNemar, Holm.

Reads judgements.jsonl of both. A comparison is of the measure a benchmark has, by the judge and the part that decide
it, and only between numbers made by the same protocol, hash for hash. `p_holm` is adjusted for all comparisons of the
report. What could not have shown is said, too: `detectable` is the smallest change that as many prompts would show.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from alttrain.evaluation.statistics import Comparison, compare, holm
from alttrain.report.items import Verdicts, verdicts
from alttrain.report.runs import Evaluation

BASELINE = "none"
"""What rewrite and training of the No-train run are called."""
SEED = 0
"""Of the bootstrap: the same report has the same intervals."""


@dataclass(frozen=True)
class Compared:
    """A run's rate against its baseline's on the prompts both have a verdict on; a row of comparisons.csv."""

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
        return self.p_holm < 0.05


def comparisons(judged: Sequence[Evaluation]) -> list[Compared]:
    """A comparison for each benchmark of each run whose backbone has a No-train run judged in the same way."""
    baselines: dict[tuple[Any, ...], Evaluation] = {}
    for one in judged:
        if is_baseline(one.names):
            for key in (_key(one, seeded=True), _key(one, seeded=False)):
                baselines.setdefault(key, one)
    pairs = [
        (baseline, one)
        for one in judged
        if not is_baseline(one.names)
        and (baseline := baselines.get(_key(one, seeded=True)) or baselines.get(_key(one, seeded=False)))
        and "decides" in one.analysis
        and "decides" in baseline.analysis
    ]
    known: dict[Path, Verdicts] = {}  # a baseline is compared with many runs
    for baseline, _ in pairs:
        if baseline.folder not in known:
            known[baseline.folder] = verdicts(baseline)
    made = [_compared(baseline, known[baseline.folder], one, verdicts(one)) for baseline, one in pairs]
    adjusted = holm({number: row.p for number, row in enumerate(made) if not math.isnan(row.p)})
    return [replace(row, p_holm=adjusted.get(number, math.nan)) for number, row in enumerate(made)]


def is_baseline(names: Mapping[str, Any]) -> bool:
    """Whether a run is the backbone as it is."""
    return (names["rewrite"], names["training"]) == (BASELINE, BASELINE)


def _key(one: Evaluation, seeded: bool) -> tuple[Any, ...]:
    """What two runs must have in common; the baseline's seed matters only where there is one of the same seed."""
    seed = (one.names["seed"],) if seeded else ()
    return (one.names["backbone"], one.benchmark, one.protocol["protocol_hash"], *seed)


def _compared(baseline: Evaluation, before: Verdicts, one: Evaluation, after: Verdicts) -> Compared:
    pairs = [(before[key], after[key]) for key in before.keys() & after.keys()]
    decided = [pair for pair in pairs if None not in pair]
    n, gained, lost = len(decided), decided.count((False, True)), decided.count((True, False))
    found = _alike(n, gained, lost)
    rates = [sum(bool(pair[side]) for pair in decided) / n if n else math.nan for side in (0, 1)]
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
        p=found.p,
        p_holm=math.nan,
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
    return math.nan if value is None else value
