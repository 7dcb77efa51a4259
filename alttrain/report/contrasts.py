"""Differences between numbers on the same prompts: from No-train, and from the same run without an intervention.

The test is, for one seed, the exact sign-flip test over the prompts' differences (McNemar's for one set), in which
prompts of one goal flip together, also in several sets; it distinguishes two sets of weights. For several seeds, p is
the larger of this and the p of `variation`, in which seeds and prompts both vary; it distinguishes methods.

Contrasts with No-train are made for the deciding measure of each benchmark and for each mean, between numbers with the
same protocol hash; a number of which other judges decide all seeds has none. They are one family in a report: Holm's
method adjusts their p-values together. Contrasts of interventions are another. scripts/simulate_statistics.py measures
how often the test errs.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from alttrain.evaluation import protocol_hash, statistics
from alttrain.evaluation.statistics import by_cluster, item_of
from alttrain.report.estimates import INTERVAL, Crossed, Seeds, Values, common_seeds, cross, goals, share
from alttrain.report.evaluation import BenchmarkKey, Evaluation, Text, TextRecord, Verdicts
from alttrain.report.variants import Column, Variant, mean_columns, protocols_of

Key = TypeVar("Key", bound=Hashable)
MOST_TEXTS = 120  # to which the texts of a prompt are scaled, for the size of sign_flip's arrays
GRAIN = 8  # integer weight of a prompt of the largest set in a mean over sets; prompts of smaller sets weigh more
COMPARISON_COLUMNS = [
    "run", "baseline", "benchmark", "metric", "baseline_value", "value", "difference", "low", "high", "p", "p_holm",
    "n", "gained", "lost", "undecided", "seeds", "detectable", "protocol", "protocol_hash", "judge",
]  # fmt: skip
"""The columns of comparisons.csv."""


class Contrast(NamedTuple):
    """A difference from the baseline: No-train, or the run without an intervention, on the same prompts.

    With its p, p adjusted by Holm, and the detectable difference.
    """

    difference: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    detectable: float = math.nan


def contrast(sets: Sequence[tuple[Seeds, Seeds]]) -> Contrast:
    """Test a variant's verdicts against the baseline's.

    `sets` are pairs (variant's, baseline's). For several sets the difference is their mean with equal weights, over the
    seeds of each of the two that have a verdict in every set. A prompt counts once, with the mean of its texts. With
    several seeds, its difference is between the means over the seeds that decided it: so a seed that is undecided on
    some prompts does not move the difference, and no prompt is lost, as it would be if all seeds had to decide it.

    `detectable` is the difference that the test at 5 %, before Holm, detects with a power of 80 %. Values are nan if a
    set has no prompt that is decided in both.
    """
    common, shared = (common_seeds([arms[place] for arms in sets]) for place in (0, 1))
    if not shared:
        return Contrast()
    sets = [({seed: own[seed] for seed in common}, {seed: base[seed] for seed in shared}) for own, base in sets]
    changes = [paired_differences(baseline, seeds) for seeds, baseline in sets]
    if not all(changes):
        return Contrast()
    p = statistics.sign_flip(balanced_differences(changes))
    by_goal = [by_cluster({prompt: fmean(d) / len(own) for prompt, d in own.items()}) for own in changes]
    difference = sum(fmean(map(fmean, own.values())) for own in changes) / len(sets)
    # the size of a single set whose rate would have the variance of the mean, and the share of its prompts that differ;
    # prompts of one goal are one prompt with their mean difference
    squares = [(sum(d**2 for d in means.values()), len(means)) for means in by_goal]
    apart = sum((square * n + 2 / n) / (n + 2) for square, n in squares)
    together = sum(d**2 for d in by_cluster(*by_goal).values()) - sum(square for square, _ in squares)  # covariances
    inverse = sum(1 / n for _, n in squares)
    prompts = len(sets) ** 2 / inverse * apart / (apart + max(0.0, together))
    detectable = statistics.detectable_difference(prompts, apart / inverse)
    crossed = [_crossed_alike(*arms) for arms in sets]
    if len(common) > 1 and all(goals(arms[0]) > 1 for arms in crossed):
        varied = statistics.variation(crossed)
        difference, p = varied.value, max(p, varied.p())
        detectable = max(detectable, varied.half() + statistics.NORMAL.inv_cdf(statistics.POWER) * varied.error)
    return Contrast(difference, p, detectable=detectable)


def _crossed_alike(*arms: Seeds) -> tuple[Crossed, ...]:
    """Values by seed and prompt, for the prompts with a value in each arm, without seeds that have none."""
    crossed = [cross(seeds) for seeds in arms]
    prompts = set.intersection(*(set(next(iter(arm.values()), ())) for arm in crossed))
    alike = [
        {seed: v if v.keys() == prompts else {prompt: v[prompt] for prompt in prompts} for seed, v in arm.items()}
        for arm in crossed
    ]
    return tuple({seed: v for seed, v in arm.items() if any(x is not None for x in v.values())} for arm in alike)


def paired_differences(baseline: Seeds, compared: Seeds) -> dict[Any, list[int]]:
    """By prompt, the differences of its texts with a verdict in both, over all seeds.

    A seed is matched with the same seed of the baseline, or with its first seed if that is absent.
    """
    differences = defaultdict[Any, list[int]](list)
    for seed, after in compared.items():
        before = baseline.get(seed) or next(iter(baseline.values()))
        for text in _in_both(before, after):
            differences[text[:-1]].append(int(after[text] or 0) - int(before[text] or 0))
    return differences


def _in_both(before: Values, after: Values) -> list[Any]:
    """The texts with a verdict in both."""
    return [text for text, verdict in after.items() if verdict is not None and before.get(text) is not None]


def balanced_differences(sets: Sequence[Mapping[Any, Sequence[int]]]) -> list[int]:
    """The sum of each goal's differences, over several sets of `paired_differences`.

    Integer weights make prompts count equally, up to `MOST_TEXTS`, and sets, up to `GRAIN`.
    """
    texts = [min(MOST_TEXTS, math.lcm(*map(len, own.values()))) for own in sets]  # to which each prompt is scaled
    sizes = [number * len(own) for number, own in zip(texts, sets, strict=True)]
    weights = [round(GRAIN * max(sizes) / size) if len(sets) > 1 else 1 for size in sizes]
    weighted = (
        {prompt: weight * round(sum(d) * number / len(d)) for prompt, d in own.items()}
        for own, number, weight in zip(sets, texts, weights, strict=True)
    )
    return list(by_cluster(*weighted).values())


Contrasts = Mapping[tuple[Variant, Column], Contrast]


def comparisons(variants: Sequence[Variant]) -> tuple[pd.DataFrame, Contrasts]:
    """The rows of comparisons.csv, by run and benchmark, and all contrasts, by variant and column.

    There is a row for each benchmark of a run whose backbone has a No-train run judged in the same way. Its values and
    interval are those of the two runs. `p`, `p_holm` and `detectable` are those of the contrast over all `seeds` of the
    variant.
    """
    rows: list[tuple[tuple[Variant, Column], dict[str, Any]]] = []
    contrasts: dict[tuple[Variant, Column], Contrast] = {}
    of_protocols = (mean_columns(judged, name).values() for name, judged in protocols_of(variants).items())
    means = list(chain.from_iterable(of_protocols))

    @cache  # a baseline is compared with many variants
    def verdicts_of(variant: Variant, cell: BenchmarkKey) -> dict[int, Verdicts]:
        return {seed: evaluation.verdicts() for seed, evaluation in sorted(variant.all_evaluations[cell].items())}

    def baseline_of(variant: Variant, cells: Iterable[BenchmarkKey]) -> Variant | None:
        """The untrained backbone judged in the same ways: an unmodified one first, then one with the same dataset."""
        alike = [
            v for v in variants if v.untrained and v.backbone == variant.backbone and {*cells} <= v.evaluations.keys()
        ]
        return min(alike, key=lambda v: (bool(v.changed), v.dataset != variant.dataset), default=None)

    for variant in (variant for variant in variants if not variant.untrained):
        sets: dict[BenchmarkKey, tuple[dict[int, Verdicts], dict[int, Verdicts]]] = {}
        for key, judged in variant.evaluations.items():
            if not (baseline := baseline_of(variant, [key])):
                continue
            bases = baseline.all_evaluations[key]  # as the numbers', also of seeds that another judge decides
            measure, *others = {one.measure for one in (*variant.all_evaluations[key].values(), *bases.values())}
            if others:
                continue
            before, after = verdicts_of(baseline, key), verdicts_of(variant, key)
            sets[key] = after, before
            cell = (variant, Column(measure, key[0], (key,)))
            contrasts[cell] = contrast([sets[key]])
            for seed, evaluation in judged.items():  # against the same seed of the baseline, else its first
                base_seed = seed if seed in before else next(iter(before))
                row = _comparison(bases[base_seed], before[base_seed], evaluation, after[seed])
                rows.append((cell, row | {"seeds": max(1, len(common_seeds([after])))}))
        for column in means:
            if all(key in sets for key in column.sets) and (common := baseline_of(variant, column.sets)):
                arms = [(sets[key][0], verdicts_of(common, key)) for key in column.sets]
                contrasts[variant, column] = contrast(arms)  # a mean's sets have one baseline
    frame, contrasts = _family(rows, contrasts, COMPARISON_COLUMNS)
    return frame.sort_values(["run", "benchmark", "protocol"], kind="stable", ignore_index=True), contrasts


def _family(
    rows: Iterable[tuple[Key, dict[str, Any]]], contrasts: Mapping[Key, Contrast], columns: Sequence[str]
) -> tuple[pd.DataFrame, dict[Key, Contrast]]:
    """The frame of compared rows, each with its contrast, and the contrasts, which Holm's method adjusts together."""
    p_holm = statistics.holm({key: tested.p for key, tested in contrasts.items() if not math.isnan(tested.p)})
    adjusted = {key: tested._replace(p_holm=p_holm.get(key, math.nan)) for key, tested in contrasts.items()}
    return pd.DataFrame([{**adjusted[key]._asdict(), **row} for key, row in rows], columns=columns), adjusted


INTERVENTION_COLUMNS = [
    "intervention", "share", "left_out", *COMPARISON_COLUMNS, "rate_low", "rate_high", "of_hash", "settings",
]  # fmt: skip
"""The columns of interventions.csv.

`share` is the part of the thought that a cut keeps, `rate_low` to `rate_high` the interval of `value`, `of_hash` the
hash of how the number without the intervention was made, and `settings` that of the intervention's other settings.
"""
TURNS = ("before_assessment", "in_assessment", "after_assessment")
DECISION_COLUMNS = [
    *("run", "benchmark", "protocol", "protocol_hash", "judge", "cuts", "n", "undecided", "truncated"),
    *("share", "low", "high", *(f"{name}{end}" for name in ("flips", "moved") for end in INTERVAL)),
    *("changing", "changing_unassessed", *(f"{name}{end}" for name in TURNS for end in INTERVAL), "settings"),
]
"""The columns of decided.csv."""


def interventions(variants: Sequence[Variant]) -> tuple[pd.DataFrame, dict[tuple[Variant, BenchmarkKey], Contrast]]:
    """The rows of interventions.csv, and the contrast of each variant and intervened benchmark.

    A row compares a run's benchmark under an intervention with the same run's benchmark without it, on the prompts that
    have a verdict in both, if both were judged and otherwise made in the same way. `left_out` counts the texts that the
    intervention does not apply to. The contrasts are a family of their own for Holm's method.
    """
    rows: list[tuple[tuple[Variant, BenchmarkKey], dict[str, Any]]] = []
    contrasts: dict[tuple[Variant, BenchmarkKey], Contrast] = {}
    for variant in variants:
        for key, seeds in variant.evaluations.items():
            pairs = {
                seed: (base, evaluation)
                for seed, evaluation in seeds.items()
                if evaluation.intervention and (base := variant.evaluations.get(base_of(evaluation), {}).get(seed))
            }
            if not pairs:
                continue
            before = {seed: base.verdicts() for seed, (base, _) in pairs.items()}
            # the subject of a live attack is that of its base without earlier turns
            names = {text[1:]: text for verdicts in before.values() for text in verdicts}
            after = {
                seed: {names.get(text[1:], text): verdict for text, verdict in evaluation.verdicts().items()}
                for seed, (_, evaluation) in pairs.items()
            }
            both = {seed: _in_both(before[seed], after[seed]) for seed in pairs}
            arms = [{seed: {text: arm[seed][text] for text in both[seed]} for seed in pairs} for arm in (after, before)]
            contrasts[variant, key] = contrast([(arms[0], arms[1])])
            for seed, (base, evaluation) in pairs.items():
                row, intervention = _comparison(base, before[seed], evaluation, after[seed]), evaluation.intervention
                _, low, high = share({seed: arms[0][seed]})
                row |= {"intervention": intervention["name"], "left_out": intervention["left_out"]}
                row |= {"share": kept_share(evaluation), "rate_low": low, "rate_high": high, "of_hash": base.key[2]}
                row |= {"settings": _other_settings(evaluation), "benchmark": base.benchmark}
                rows.append(((variant, key), row | {"seeds": max(1, len(common_seeds(arms)))}))
    return _family(rows, contrasts, INTERVENTION_COLUMNS)


def base_of(evaluation: Evaluation) -> BenchmarkKey:
    """How the number without an evaluation's intervention is made; one that was made otherwise is not compared."""
    return evaluation.protocol, evaluation.intervention["of"], evaluation.intervention["of_hash"]


def kept_share(evaluation: Evaluation) -> float:
    """The share of the thought that a cut keeps; nan for other interventions."""
    settings = evaluation.intervention["settings"]
    return float(settings["share"]) if settings["_target_"].endswith(".Cut") else math.nan


def _other_settings(evaluation: Evaluation) -> str:
    """A hash of an intervention's settings without `share`, in which the cuts of one group may differ."""
    return protocol_hash({key: value for key, value in evaluation.intervention["settings"].items() if key != "share"})


def decision_places(variants: Sequence[Variant]) -> pd.DataFrame:
    """The rows of decided.csv: the place in the thought at which the outcome is decided, by the run's cuts.

    There is a row for the cuts of a run and benchmark that differ in their `share` alone, and of a judge. Each mean and
    share has its interval, with prompts as clusters.

    - `n`, `undecided`     of the thoughts that all `cuts` have, those with a verdict at each, and the others
    - `truncated`          thoughts of both kinds of which an output was cut at the limit
    - `share`              mean of the smallest cut that already has the outcome of every larger cut
    - `flips`              changes of outcome from cut to cut, per 100 thoughts
    - `moved`              share of thoughts whose first and last outcome differ
    - `changing`           thoughts of `n` whose outcome changes and whose longest cut has an assessment, and
                           `changing_unassessed`, those whose outcome changes and that have none
    - `before_assessment`  share of `changing` whose last change comes before the assessment; `in_assessment`: with the
                           part of the thought that holds it; `after_assessment`: after it
    """
    cuts: dict[tuple[Any, ...], dict[float, Evaluation]] = defaultdict(dict)
    for variant in variants:
        for seeds in variant.evaluations.values():
            for evaluation in seeds.values():
                if evaluation.intervention and not math.isnan(kept := kept_share(evaluation)):
                    protocol, benchmark, digest = base_of(evaluation)
                    names = evaluation.run, benchmark, protocol, digest, evaluation.judge
                    cuts[names, _other_settings(evaluation)][kept] = evaluation
    rows = [
        [*names, *numbers, settings]
        for (names, settings), judged in cuts.items()
        if (numbers := _decided({kept: judged[kept] for kept in sorted(judged)}))
    ]
    return pd.DataFrame(rows, columns=DECISION_COLUMNS)


def _decided(cuts: Mapping[float, Evaluation]) -> list[float]:
    """The numbers of a row of decided.csv, from the cuts in order; none without a thought that is known at two cuts."""
    shares, read = list(cuts), [evaluation.texts() for evaluation in cuts.values()]
    # what was read of each text at each cut, from the shortest to the longest
    by_text = {text: [one[text] for one in read] for text in sorted(set[Text].intersection(*map(set, read)))}
    paths = {
        text: [evaluation.counts(one.verdict) for evaluation, one in zip(cuts.values(), of_text, strict=True)]
        for text, of_text in by_text.items()
    }
    known = {text: path for text, path in paths.items() if None not in path}
    if len(shares) < 2 or not known:
        return []
    changes = {text: [cut for cut in range(1, len(path)) if path[cut] != path[cut - 1]] for text, path in known.items()}
    turns = {t: turn for t, places in changes.items() if places and (turn := _turn(by_text[t], places[-1]))}
    prompts, turned = ([by_text[text][0].item for text in texts] for texts in (known, turns))
    unassessed = sum(map(bool, changes.values())) - len(turns)
    truncated = sum(any(one.truncated for one in of_text) for of_text in by_text.values())
    return [
        *(len(shares), len(known), len(paths) - len(known), truncated),
        *statistics.rate_by_item([shares[max(places, default=0)] for places in changes.values()], prompts),
        *statistics.mean_by_item([100.0 * len(places) for places in changes.values()], prompts),
        *statistics.rate_by_item([path[0] != path[-1] for path in known.values()], prompts),
        *(len(turns), unassessed),
        *chain(*(statistics.rate_by_item([turn == name for turn in turns.values()], turned) for name in TURNS)),
    ]


def _turn(cuts: Sequence[TextRecord], changed: int) -> str | None:
    """Which of `TURNS` the outcome's change at a cut is; None if the longest cut of the thought has no assessment.

    A cut keeps the assessment if the parser finds it there at the same place as in the longest cut: in a part of the
    thought it may take another sentence for it.
    """
    place, (before, at, after) = cuts[-1].position_words, TURNS
    if place is None:
        return None
    if cuts[changed - 1].position_words == place:
        return after
    return at if cuts[changed].position_words == place else before


def _comparison(baseline: Evaluation, before: Verdicts, evaluation: Evaluation, after: Verdicts) -> dict[str, Any]:
    """A run's rate against its baseline's, on the prompts that have a verdict in both; a prompt counts once."""
    (difference, low, high), counts = statistics.compare(before, after)
    both = _in_both(before, after)
    rates = [
        statistics.rate_by_item([bool(arm[text]) for text in both], list(map(item_of, both))).value
        for arm in (before, after)
    ]
    names = evaluation.names_of_row() | {"baseline": baseline.run, "metric": evaluation.measure}
    values = {"baseline_value": rates[0], "value": rates[1], "difference": difference, "low": low, "high": high}
    return {**names, **values, **counts}
