"""The number in a table's cell, over all seeds of a variant, and its contrast with No-train.

- one seed       Wilson's interval; several benchmarks ("sets") are independent, and their bounds combine by adding
                 squares (Zou and Donner, 2008)
- several seeds  seeds and prompts both vary; a seed's training is shared by all sets (`rate_over_seeds`)
- the test       for one seed: the exact sign-flip test over the prompts' differences (McNemar's for one set), which
                 distinguishes two sets of weights. For several seeds, p is the larger of this and the p of `variation`,
                 in which seeds and prompts both vary; it distinguishes methods

Contrasts are made for the deciding measure of each benchmark and for each mean, between numbers with the same protocol
hash. They are one family in a report: Holm's method adjusts their p-values together. scripts/simulate_statistics.py
measures how often the intervals cover and the test errs.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from alttrain.evaluation import statistics
from alttrain.evaluation.statistics import UNKNOWN, Estimate
from alttrain.records import Trained, read_if_there
from alttrain.report.measures import ASSESSING, CAUSES, TOKENS, TRAINING
from alttrain.report.results import Evaluation, Made, Verdicts
from alttrain.report.variants import Column, Variant, mean_columns, protocols_of

NAN = math.nan
Values = Mapping[Any, float | None]  # a text, named (..., prompt, sample) -> its value, None if undecided
Seeds = Mapping[int, Values]
Crossed = dict[int, dict[Any, float | None]]
Key = TypeVar("Key", bound=Hashable)
GRAIN = 8  # integer weight of a prompt of the largest set in a mean over sets; prompts of smaller sets weigh more
COMPARED = [
    "run", "baseline", "benchmark", "metric", "baseline_value", "value", "difference", "low", "high", "p", "p_holm",
    "n", "gained", "lost", "undecided", "seeds", "detectable", "protocol", "protocol_hash", "judge",
]  # fmt: skip
"""The columns of comparisons.csv."""
CATEGORIES = [
    "protocol", "backbone", "method", "benchmark", "category", "metric", "value", "low", "high", "n", "seeds",
    "undecided", "truncated", "prompts", "small", "protocol_hash", "judge",
]  # fmt: skip
"""The columns of categories.csv. `n` counts the texts with a verdict, over all seeds, and `prompts` their prompts."""
ENDS = {True: "refused", False: "answered", None: "undecided"}
FLOWS = [f"{said}_{end}" for said in ("harmful", "benign", "unassessed") for end in ENDS.values()]
"""Columns of thoughts.csv: what the assessment says, and what becomes of the answer."""
SMALL = 30
"""A rate over fewer prompts is called a small sample: its interval is more than 30 points wide around 50 %."""


def share(*sets: Seeds) -> Estimate:
    """The share of True verdicts, or the mean of shares, with its interval.

    For several sets this is their mean with equal weights, over the seeds that all sets have.
    """
    common = _common(sets)
    crossed = [_crossed({seed: seeds[seed] for seed in common}) for seeds in sets]
    if all(map(_enough, crossed)):
        return statistics.rate_over_seeds(*crossed)
    return mean_of_sets([statistics.rate_by_item(*_listed(seeds)) for seeds in sets])


def mean(seeds: Seeds) -> Estimate:
    """The mean of the values, with its interval."""
    crossed = _crossed(seeds)
    return statistics.mean_over_seeds(crossed) if _enough(crossed) else statistics.mean_by_item(*_listed(seeds))


def mean_of_sets(sets: Sequence[Estimate]) -> Estimate:
    """The mean of the estimates of independent sets, with equal weights."""
    value = sum(one.value for one in sets) / len(sets)
    below, above = (math.hypot(*(one.value - one[end] for one in sets)) / len(sets) for end in (1, 2))
    return Estimate(value, value - below, value + above)


def _listed(seeds: Seeds) -> tuple[list[float], list[Hashable]]:
    """All values, and the prompt of each."""
    known = [(value, text[:-1]) for own in seeds.values() for text, value in own.items() if value is not None]
    return [value for value, _ in known], [prompt for _, prompt in known]


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


def _enough(crossed: Crossed) -> bool:
    """Whether at least two seeds and two prompts have a value."""
    seeds = sum(any(value is not None for value in own.values()) for own in crossed.values())
    return seeds > 1 and len(next(iter(crossed.values()))) > 1


def _common(sets: Sequence[Seeds]) -> list[int]:
    """The seeds that have a value in every set."""
    there = [{seed for seed, own in seeds.items() if any(v is not None for v in own.values())} for seeds in sets]
    return sorted(set.intersection(*there))


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
    seeds = _common([own for own, _ in sets])
    crossed = [_crossed_alike({seed: own[seed] for seed in seeds}, baseline) for own, baseline in sets]
    if len(seeds) > 1 and all(len(next(iter(arms[0].values()))) > 1 for arms in crossed):
        varied = statistics.variation(crossed)
        difference, p = varied.value, max(p, varied.p())
        detectable = max(detectable, varied.half() + statistics.NORMAL.inv_cdf(statistics.POWER) * varied.error)
    return Contrast(difference, p, detectable=detectable)


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


class Number(NamedTuple):
    """One number. `n` counts the texts behind it, over all seeds, without `undecided` and with `truncated` ones."""

    value: float = NAN
    low: float = NAN
    high: float = NAN
    n: int = 0
    seeds: int = 1
    undecided: int = 0
    truncated: int = 0


def numbers(variant: Variant, columns: Iterable[Column]) -> dict[Column, Number]:
    """The variant's number in each column; columns by which it was not judged are absent."""
    training = _training(variant)
    values = {made: {seed: values_of(one) for seed, one in seeds.items()} for made, seeds in variant.every.items()}
    found: dict[Column, Number] = {}
    for column in columns:
        sets = [values.get(made, {}) for made in column.made]
        number = _number(variant, column, sets) if column.kind != "training" else training.get(column.measure)
        found |= {column: number} if number else {}
    return found


def values_of(one: Evaluation) -> dict[str, dict[Any, Any]]:
    """Measure -> text (benchmark, prompt, sample) -> its value, None if undecided; texts that do not count are absent.

    The benchmark's own measure and `score` are there if it is known what decides them.
    """
    found: defaultdict[str, dict[Any, Any]] = defaultdict(dict)
    for key, read in one.texts().items():
        text, row = (one.benchmark, *key), read.row
        if read.judged:
            found[one.measure][text], found["score"][text] = one.counts(read.verdict), read.judged.value
        if not read.generated:
            continue
        tokens = row.thought_tokens, row.answer_tokens, row.thought_tokens + row.answer_tokens
        own: dict[str, Any] = dict(zip(TOKENS, tokens, strict=True))
        if read.thought:
            harmful, alarmed = row.label == "harmful", read.thought.assessment == "harmful"
            own |= {"adherence_rate": read.thought.adheres, "recall" if harmful else "false_alarms": alarmed}
            own |= {"precision": harmful} if alarmed else {}
            outcome = "answered" if harmful else "refused"
            own |= {f"{outcome}_{cause}": read.cause == cause for cause in CAUSES if read.cause is not None}
        for measure, value in own.items():
            found[measure][text] = value
    return found


def _number(variant: Variant, column: Column, sets: Sequence[Mapping[int, Mapping[str, Values]]]) -> Number | None:
    """The number of a column, from the values of each of its sets by seed; None if the variant was not judged so."""
    if not sets or not all(sets):
        return None
    measure = column.measure
    if column.kind == "pool":
        seeds = sorted(set.intersection(*(set(own) for own in sets)))
        pooled = {seed: {text: v for own in sets for text, v in own[seed].get(measure, {}).items()} for seed in seeds}
        n = sum(value is not None for own in pooled.values() for value in own.values())
        return Number(*(share if measure in ASSESSING else mean)(pooled), n, len(pooled)) if n else None
    metrics = [[one.metric(measure) for one in variant.every[made].values()] for made in column.made]
    if not all(map(all, metrics)):
        return None
    decided = [
        {seed: own[measure] for seed, own in seeds.items()} if all(measure in own for own in seeds.values()) else {}
        for seeds in sets
    ]
    rates = [_rate(found, own) for found, own in zip(metrics, decided, strict=True)]
    if column.kind == "rate":
        return rates[0]
    whole = all(decided) and any(one.seeds > 1 for one in rates)
    estimate = share(*decided) if whole else mean_of_sets([Estimate(*one[:3]) for one in rates])
    n, undecided, truncated = (sum(getattr(one, name) for one in rates) for name in ("n", "undecided", "truncated"))
    return Number(*estimate, n, min(one.seeds for one in rates), undecided, truncated)


def _rate(metrics: Sequence[Any], decided: Seeds) -> Number:
    """A measure of one benchmark, from the metrics of each seed, and from the `decided` texts if these are known."""
    if decided and len(metrics) > 1:
        estimate = share(decided)
    else:  # the mean of the seeds' estimates and of their bounds
        known = [metric for metric in metrics if metric["value"] is not None]
        bounds = ([NAN if one[key] is None else one[key] for one in known] for key in ("value", "low", "high"))
        estimate = Estimate(*(sum(own) / len(own) if own else NAN for own in bounds))
    undecided, truncated = (sum(metric[key] for metric in metrics) for key in ("undecided", "truncated"))
    n = sum(metric["n"] for metric in metrics) - undecided
    return Number(*estimate, n, len(metrics), undecided, truncated)


def _training(variant: Variant) -> dict[str, Number]:
    """The numbers of the training, as means over the seeds. GPU-hours are known only if a GPU trained."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for folder in variant.folders.values():
        if record := read_if_there(folder / "train.json", Trained):
            on_gpu = str(record.get("device", "")).startswith("cuda")
            hours = record["seconds"] * record.get("devices", 1) / 3600 if on_gpu else None
            counts = record.get("examples"), record.get("tokens"), record.get("seconds"), hours
            for name, value in zip(TRAINING, counts, strict=True):
                found[name] += [] if value is None else [float(value)]
    return {name: Number(sum(known) / len(known), seeds=len(known)) for name, known in found.items() if known}


def by_category(found: Sequence[Variant]) -> pd.DataFrame:
    """The rows of categories.csv: attack success by hazard category, for benchmarks whose rows have two or more."""
    rows = []
    for variant in found:
        for (protocol, benchmark, digest), judged in variant.judged.items():
            first = next(iter(judged.values()))
            if first.measure != "harmful_rate" or not all(one.decides for one in judged.values()):
                continue
            own: defaultdict[str, dict[int, dict[Any, bool | None]]] = defaultdict(lambda: defaultdict(dict))
            cut: Counter[str] = Counter()
            for seed, one in judged.items():
                for text, read in one.texts().items():
                    own[read.row.category][seed][text] = one.counts(read.verdict)
                    cut[read.row.category] += read.row.finish == "length"
            if len(own) < 2:
                continue
            names = {"protocol": protocol, "backbone": variant.backbone, "method": variant.name, "benchmark": benchmark}
            names |= {"metric": first.measure, "protocol_hash": digest, "judge": first.judge}
            for category, seeds in sorted(own.items()):
                values, prompts = _listed(seeds)
                texts, distinct = sum(map(len, seeds.values())), len(set(prompts))
                counts = {"n": len(values), "seeds": len(seeds), "undecided": texts - len(values)}
                counts |= {"truncated": cut[category], "prompts": distinct, "small": distinct < SMALL}
                estimate = (share(seeds) if values else UNKNOWN)._asdict()
                rows.append({**names, **estimate, **counts, "category": category or "none"})
    return pd.DataFrame(rows, columns=CATEGORIES)


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
            if variant.untrained or baseline is variant or any(not o.decides or o.measure != measure for o in both):
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
                if one.intervention and (base := plain.get((base_of(one), seed))) and base.decides and one.decides
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


def thoughts(judged: Iterable[Evaluation]) -> pd.DataFrame:
    """The rows of thoughts.csv: whether thought and answer agree, for each run and benchmark of harm or over-refusal.

    - `against`      of the thoughts that refuse or go on, and whose answer has a verdict (`n`), the share whose answer
                     does the other: `safe_thought` ones refuse and the answer does not, `safe_answer` ones the other
                     way round
    - `follows`      of the assessed thoughts whose answer has a verdict (`assessed`), the share whose answer acts on
                     the assessment: it refuses if and only if that says harmful
    - `assessed_at`  the mean share of the thought's characters before the assessment
    - `FLOWS`        the number of texts by the assessment and the outcome, also without a verdict
    """
    rows = []
    for one in judged:
        if one.measure not in ("harmful_rate", "over_refusal_rate") or one.decides is None:
            continue
        every = [(text.thought, text.refused) for text in one.texts().values() if text.thought and text.generated]
        read = [(thought, refused) for thought, refused in every if refused is not None]
        decided = [pair for pair in read if pair[0].refuses or pair[0].continuation is not None]
        assessed = [pair for pair in read if pair[0].assessment is not None]
        if not every:
            continue
        safe = [bool(thought.refuses) - refused for thought, refused in decided]  # 1: the thought only, -1: the answer
        follows = [(thought.assessment == "harmful") is refused for thought, refused in assessed]
        places = [(own.position_share, own.id) for own, _ in assessed if own.position_share is not None]
        numbers = {
            "against": statistics.rate_by_item([one != 0 for one in safe], [thought.id for thought, _ in decided]),
            "follows": statistics.rate_by_item(follows, [thought.id for thought, _ in assessed]),
            "assessed_at": statistics.mean_by_item([place for place, _ in places], [name for _, name in places]),
        }
        row: dict[str, Any] = {"run": one.run, "benchmark": one.benchmark, "protocol": one.protocol}
        row |= {"protocol_hash": one.made[2], "judge": one.judge, "n": len(decided), "assessed": len(assessed)}
        row |= {"safe_thought": safe.count(1), "safe_answer": safe.count(-1)}
        for name, number in numbers.items():
            row |= zip((name, f"{name}_low", f"{name}_high"), number, strict=True)
        flows = Counter(f"{thought.assessment or 'unassessed'}_{ENDS[refused]}" for thought, refused in every)
        rows.append(row | {"metric": one.measure} | {name: flows[name] for name in FLOWS})
    return pd.DataFrame(rows)


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
