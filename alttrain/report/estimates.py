"""The number in a table's cell, over all seeds of a variant, and numbers by category, by thought and by outcome.

- one seed       Wilson's interval; several benchmarks ("sets") are as correlated as their goals (`mean_of_rates`)
- several seeds  seeds and prompts both vary; a seed's training is shared by all sets (`rate_over_seeds`)

scripts/simulate_statistics.py measures how often the intervals cover.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from alttrain.evaluation import statistics
from alttrain.evaluation.adherence import CAUSES, COUNTS, assessment_rates
from alttrain.evaluation.statistics import UNKNOWN, Estimate, cluster_of, mean_of_sets
from alttrain.records import TrainDocument, read_if_there
from alttrain.report.evaluation import Evaluation, Text, TextRecord
from alttrain.report.measures import ASSESSING, TOKENS, TRAINING
from alttrain.report.variants import Column, Variant

Values = Mapping[Any, float | None]  # a text, named (subject, ..., prompt, sample) -> its value, None if undecided
Seeds = Mapping[int, Values]
Crossed = dict[int, dict[Any, float | None]]
CATEGORIES = [
    "protocol", "backbone", "method", "benchmark", "category", "metric", "value", "low", "high", "n", "seeds",
    "undecided", "truncated", "prompts", "small", "protocol_hash", "judge",
]  # fmt: skip
"""The columns of categories.csv. `n` counts the texts with a verdict, over all seeds, and `prompts` their prompts."""
INTERVAL, TOKEN_PARTS = ("", "_low", "_high"), ("thought", "answer", "total")
SAFETY = ("harmful_rate", "over_refusal_rate")  # the measures that have rates by category and of thoughts
STRUCTURE = [
    *("run", "protocol", "judges"),
    *(f"{rate}{end}" for rate in ("precision", "recall", "false_alarms") for end in INTERVAL),
    *COUNTS,
]
"""The columns of structure.csv. `harmful_n` and `benign_n` count texts with a verdict (`TextRecord.refused`)."""
USES = [
    *("run", "benchmark", "protocol", "protocol_hash", "judge", "outcome", "n"),
    *(f"{part}{end}" for part in TOKEN_PARTS for end in INTERVAL),
]
"""The columns of tokens.csv."""
AGREEMENT = [
    "run", "benchmark", "protocol", "protocol_hash", "judge", "field", "n", "undecided",
    "agreed", "agreed_low", "agreed_high", "kappa", "kappa_low", "kappa_high",
]  # fmt: skip
"""The columns of structure_agreement.csv."""
FAILED = {outcome: {cause: f"{outcome}_{cause}" for cause in CAUSES} for outcome in ("answered", "refused")}
ENDS = {True: "refused", False: "answered", None: "undecided"}
FLOWS = [f"{assessment}_{end}" for assessment in ("harmful", "benign", "unassessed") for end in ENDS.values()]
"""Columns of thoughts.csv: what the assessment says, and what becomes of the answer (`TextRecord.refused`)."""
PAIRS, RATE = [f"{one}_{two}" for one in ("safe", "unsafe") for two in ("safe", "unsafe")], ("_share", "_low", "_high")
JUDGED = ["judged", "judged_undecided", *(f"{pair}{end}" for pair in PAIRS for end in ("", *RATE))]
"""Columns of thoughts.csv that are only there if a judge judged thoughts and answers by themselves."""
SMALL = 30
"""A rate over fewer prompts is called a small sample: its interval is more than 30 points wide around 50 %."""


def share(*sets: Seeds) -> Estimate:
    """The share of True verdicts, or the mean of shares, with its interval; nan without a value.

    For several sets this is their mean with equal weights, over the seeds that have a value in every set.
    """
    common = common_seeds(sets)
    alike = [{seed: seeds[seed] for seed in common} for seeds in sets]
    crossed = [cross(seeds) for seeds in alike]
    if all(map(_enough, crossed)):
        return statistics.rate_over_seeds(*crossed)
    return statistics.mean_of_rates([_listed(seeds) for seeds in alike])


def mean(seeds: Seeds) -> Estimate:
    """The mean of the values, with its interval."""
    crossed = cross(seeds)
    return statistics.mean_over_seeds(crossed) if _enough(crossed) else statistics.mean_by_item(*_listed(seeds))


def _listed(seeds: Seeds) -> tuple[list[float], list[Hashable]]:
    """All values, and the prompt of each."""
    known = [(value, text[:-1]) for values in seeds.values() for text, value in values.items() if value is not None]
    return [value for value, _ in known], [prompt for _, prompt in known]


def cross(seeds: Seeds) -> Crossed:
    """Values by seed and prompt, of which the texts are averaged. A seed or prompt without any value is left out."""
    every = {seed: statistics.item_means(*_listed({seed: by_text})) for seed, by_text in seeds.items()}
    averaged = {seed: means for seed, means in every.items() if means}
    prompts = set[Any]().union(*averaged.values())
    return {
        seed: means if len(means) == len(prompts) else {prompt: means.get(prompt) for prompt in prompts}
        for seed, means in averaged.items()
    }


def _enough(crossed: Crossed) -> bool:
    """Whether at least two seeds and prompts of two goals have a value."""
    return len(crossed) > 1 and goals(crossed) > 1


def goals(crossed: Crossed) -> int:
    """The number of the prompts' goals."""
    return len(set(map(cluster_of, next(iter(crossed.values()), ()))))


def common_seeds(sets: Sequence[Seeds]) -> list[int]:
    """The seeds that have a value in every set."""
    known = [{seed for seed, values in seeds.items() if any(v is not None for v in values.values())} for seeds in sets]
    return sorted(set.intersection(*known))


class Number(NamedTuple):
    """One number. `n` counts the texts behind it, over all seeds, without `undecided` and with `truncated` ones.

    `seeds` counts seeds with a value; it is 1 if none has one. Means leave out the other seeds' texts, and pools those
    that were not generated.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    seeds: int = 1
    undecided: int = 0
    truncated: int = 0


Numbers = dict[tuple[Variant, Column], Number]


def numbers(variants: Iterable[Variant], columns: Iterable[Column]) -> Numbers:
    """Each variant's number in each column; those by which it was not judged are absent."""
    every, known = list(dict.fromkeys(columns)), Numbers()
    for variant in variants:
        judged, training = variant.all_evaluations.items(), _training(variant)
        values = {key: {seed: values_of(e) for seed, e in seeds.items()} for key, seeds in judged}
        for column in every:
            sets = [values.get(key, {}) for key in column.sets]
            number = _number(variant, column, sets) if column.kind != "training" else training.get(column.measure)
            if number:
                known[variant, column] = number
    return known


def values_of(evaluation: Evaluation) -> dict[str, dict[Any, Any]]:
    """Measure -> text (subject, benchmark, prompt, sample) -> its value, None if undecided.

    Texts that do not count are absent. `truncated` has the texts that were cut. An agreement (kappa) has no value by
    text; its view returns the values of the benchmark's own measure.
    """
    by_measure: defaultdict[str, dict[Any, Any]] = defaultdict(dict)
    own_measure = evaluation.decider.measure
    for key, read in evaluation.texts().items():
        text = (read.subject, evaluation.benchmark, *key)
        by_measure[own_measure][text], by_measure["score"][text] = evaluation.counts(read.verdict), read.value
        if read.truncated:
            by_measure["truncated"][text] = True
        if not read.generated:
            continue
        tokens = read.thought_tokens, read.answer_tokens, read.thought_tokens + read.answer_tokens
        for measure, count in zip(TOKENS, tokens, strict=True):
            by_measure[measure][text] = count
        harmful, alarmed = read.label == "harmful", read.assessment == "harmful"
        by_measure["adherence_rate"][text] = read.adheres
        by_measure["recall" if harmful else "false_alarms"][text] = alarmed
        if alarmed:
            by_measure["precision"][text] = harmful
        why = read.cause
        for cause, measure in FAILED["answered" if harmful else "refused"].items():
            by_measure[measure][text] = None if why is None else why == cause
    return by_measure


def _number(variant: Variant, column: Column, sets: Sequence[Mapping[int, Mapping[str, Values]]]) -> Number | None:
    """The number of a column, from the values of each of its sets by seed; None if the variant was not judged so.

    Means and pools are over the seeds that all their sets have, and means only over those with a value in each.
    """
    common = sorted(set.intersection(*map(set, sets))) if sets else []
    if not common:
        return None
    measure = column.measure
    if column.kind == "pool":
        pooled = {seed: {t: v for seeds in sets for t, v in seeds[seed].get(measure, {}).items()} for seed in common}
        cut = [text in pooled[seed] for seed in common for seeds in sets for text in seeds[seed].get("truncated", ())]
        estimated = share if measure in ASSESSING else mean
        return _number_of_texts(pooled, sum(cut), estimated) if any(pooled.values()) else None
    metrics: dict[int, list[Any]] = {
        seed: [variant.all_evaluations[key][seed].metric(measure) for key in column.sets] for seed in common
    }
    if not all(map(all, metrics.values())):
        return None
    known = [seed for seed in common if all(metric["value"] is not None for metric in metrics[seed])]
    counted = [metric for seed in (column.kind != "rate" and known) or common for metric in metrics[seed]]
    undecided, truncated = (sum(metric[name] for metric in counted) for name in ("undecided", "truncated"))
    decided = [{seed: seeds[seed].get(measure, {}) for seed in known} for seeds in sets]
    estimate = UNKNOWN
    if len(known) * len(sets) > 1 and all(all(seeds.values()) for seeds in decided):
        estimate = share(*decided)
    elif known:  # one number, or a measure without values by text: agreements, and what thoughts recognise
        by_set = [
            Estimate(*(fmean(math.nan if m[end] is None else m[end] for m in own) for end in Estimate._fields))
            for own in zip(*(metrics[seed] for seed in known), strict=True)
        ]
        estimate = by_set[0] if column.kind == "rate" else mean_of_sets(by_set)
    n = sum(metric["n"] for metric in counted) - undecided
    return Number(*estimate, n, max(1, len(known)), undecided, truncated)


def _number_of_texts(seeds: Seeds, truncated: int, estimated: Callable[[Seeds], Estimate]) -> Number:
    """The number of these texts, by seed, of which so many are truncated."""
    texts = sum(map(len, seeds.values()))
    n = texts - sum(list(values.values()).count(None) for values in seeds.values())
    estimate = estimated(seeds) if n else UNKNOWN
    return Number(*estimate, n, max(1, len(common_seeds([seeds]))), texts - n, truncated)


def _training(variant: Variant) -> dict[str, Number]:
    """The numbers of the training, as means over the seeds. GPU-hours are known only if a GPU trained."""
    values: defaultdict[str, list[float]] = defaultdict(list)  # by measure, one for each seed
    for folder in variant.folders.values():
        if record := read_if_there(folder / "train.json", TrainDocument):
            hours = record["seconds"] * record["devices"] / 3600 if record["device"].startswith("cuda") else None
            counts = record["examples"], record["tokens"], record["seconds"], hours
            for name, value in zip(TRAINING, counts, strict=True):
                values[name] += [] if value is None else [float(value)]
    return {name: Number(sum(known) / len(known), seeds=len(known)) for name, known in values.items() if known}


def by_category(variants: Sequence[Variant]) -> pd.DataFrame:
    """The rows of categories.csv: attack success and over-refusal by category, for benchmarks with two or more."""
    rows = []
    for variant in variants:
        for evaluations in variant.evaluations.values():
            first = next(iter(evaluations.values()))
            if first.measure not in SAFETY:
                continue
            categories: defaultdict[str, dict[int, dict[Any, bool | None]]] = defaultdict(lambda: defaultdict(dict))
            truncated: Counter[str] = Counter()
            for seed, evaluation in evaluations.items():
                for read in evaluation.texts().values():
                    category = read.category or "none"
                    categories[category][seed][*read.item, read.sample] = evaluation.counts(read.verdict)
                    truncated[category] += read.truncated
            if len(categories) < 2:
                continue
            names = first.names_of_row() | {"backbone": variant.backbone, "method": variant.name}
            for category, seeds in sorted(categories.items()):
                number, prompts = _number_of_texts(seeds, truncated[category], share), len({*_listed(seeds)[1]})
                row = {"metric": first.measure, "category": category, "prompts": prompts, "small": prompts < SMALL}
                rows.append(names | number._asdict() | row)
    return pd.DataFrame(rows, columns=CATEGORIES)


def thoughts(judged: Iterable[Evaluation]) -> pd.DataFrame:
    """The rows of thoughts.csv: whether thought and answer agree, for each run and benchmark of harm or over-refusal.

    Whether an answer refuses is `TextRecord.refused`: where the protocol judges thought and answer together, it is the
    verdict on the two as one text. Shares count a prompt once, so with several texts a prompt they need not be the
    quotients of the counts.

    - `against`      of the thoughts that refuse or go on, and whose answer has a verdict (`n`), the share whose answer
                     does the other: `safe_thought` ones refuse and the answer does not, `safe_answer` ones the other
                     way round, each with its share
    - `undecided`    the texts that are not in `n`; `truncated` counts those of both that were cut at the limit
    - `follows`      of the assessed thoughts whose answer has a verdict (`assessed`), the share whose answer acts on
                     the assessment: it refuses if and only if that says harmful
    - `assessed_at`  the mean share of the thought's characters before the assessment, of all assessed thoughts
    - `FLOWS`        the number of texts by the assessment and the outcome, also without a verdict
    - `JUDGED`       if a judge judged thoughts and answers by themselves: how many texts have both verdicts (`judged`)
                     and how many lack one, and of the former, how many thoughts and answers it calls safe or unsafe (a
                     thought's first), with their shares
    """
    rows = []
    for evaluation in judged:
        if evaluation.measure not in SAFETY:
            continue
        generated = [text for text in evaluation.texts().values() if text.generated]
        decided = [text for text in generated if text.refused is not None]
        acting = [text for text in decided if text.refuses or text.continuation is not None]
        assessed = [text for text in decided if text.assessment is not None]
        if not generated:
            continue
        safe = [bool(text.refuses) - bool(text.refused) for text in acting]  # 1: the thought only, -1: the answer
        follows = [(text.assessment == "harmful") is text.refused for text in assessed]
        placed = [text for text in generated if text.position_share is not None]
        row: dict[str, Any] = evaluation.names_of_row() | {"n": len(acting), "undecided": len(generated) - len(acting)}
        row |= {"truncated": sum(text.truncated for text in generated), "assessed": len(assessed)}
        for name, own in (("safe_thought", 1), ("safe_answer", -1)):
            row |= {name: safe.count(own)} | _rate(name, [sign == own for sign in safe], acting, RATE)
        row |= _rate("against", [sign != 0 for sign in safe], acting) | _rate("follows", follows, assessed)
        row |= _rate("assessed_at", [text.position_share or 0.0 for text in placed], placed)
        flows = Counter(f"{text.assessment or 'unassessed'}_{ENDS[text.refused]}" for text in generated)
        row |= {"metric": evaluation.measure} | {name: flows[name] for name in FLOWS}
        rows.append(row | _judged(evaluation, {(text.id, text.sample): text for text in generated}))
    frame = pd.DataFrame(rows)
    counts = [name for name in JUDGED if name in frame and not name.endswith(RATE)]
    return frame.astype(dict.fromkeys(counts, "Int64"))  # empty where no judge judged both


def _judged(evaluation: Evaluation, texts: Mapping[Text, TextRecord]) -> dict[str, Any]:
    """The columns `JUDGED` of a row; {} unless one judge of harm judged both parts."""
    judge, says, others = evaluation.judge, evaluation.decider.says, evaluation.analysis["others"]
    parts = {evaluation.decider.part, *(other["part"] for other in others if other["judge"] == judge)}
    if says != "unsafe" or not parts >= {"thought", "answer"}:
        return {}
    unsafe: dict[tuple[str, Text], bool] = {}
    for row in evaluation.judgements():
        if row.judge == judge and row.verdict is not None:
            unsafe[row.part, (row.id, row.sample)] = row.verdict
    both = [text for text in sorted(texts) if {("thought", text), ("answer", text)} <= unsafe.keys()]
    called = {True: "unsafe", False: "safe"}
    pairs = [f"{called[unsafe['thought', text]]}_{called[unsafe['answer', text]]}" for text in both]
    columns: dict[str, Any] = {"judged": len(both), "judged_undecided": len(texts) - len(both)}
    for pair in PAIRS:
        rate = _rate(pair, [one == pair for one in pairs], [texts[text] for text in both], RATE)
        columns |= {pair: pairs.count(pair)} | rate
    return columns


def structure(judged: Sequence[Evaluation]) -> pd.DataFrame:
    """structure.csv: for each run and protocol, the assessment as a classifier of requests, and the causes of failures.

    All are over the texts of all benchmarks, since harmful and harmless prompts come from different ones.
    """
    by_run = defaultdict[tuple[str, str], list[Evaluation]](list)
    for evaluation in judged:
        by_run[evaluation.run, evaluation.protocol].append(evaluation)
    rows = []
    for (run, protocol), own in by_run.items():
        row: Counter[str] | dict[str, Any] = Counter()
        for evaluation in own:
            row.update(evaluation.analysis["counts"])
        judges = " + ".join(dict.fromkeys(evaluation.judge for evaluation in own))
        row = {**row, "run": run, "protocol": protocol, "judges": judges}
        texts = (
            (text.label, text.assessment, (text.subject, evaluation.benchmark, text.id))
            for evaluation in own
            for text in evaluation.texts().values()
            if text.generated
        )
        for name, rate in assessment_rates(texts).items():
            row |= _columns(name, rate)
        rows.append(row)
    return pd.DataFrame(rows, columns=STRUCTURE)


def _columns(name: str, estimate: Sequence[float], ends: Sequence[str] = INTERVAL) -> dict[str, float]:
    return {f"{name}{end}": bound for end, bound in zip(ends, estimate, strict=True)}


def _rate(
    name: str, values: Sequence[float], texts: Sequence[TextRecord], ends: Sequence[str] = INTERVAL
) -> dict[str, float]:
    """The columns of the rate of these texts' values."""
    return _columns(name, statistics.rate_by_item(values, [text.item for text in texts]), ends)


def token_use(judged: Iterable[Evaluation]) -> pd.DataFrame:
    """tokens.csv: mean tokens of a query by outcome, in the thought, the answer and both (`Summary.tokens`)."""
    rows = [
        evaluation.names_of_row()
        | {"outcome": used["outcome"], "n": used["n"]}
        | {name: bound for part in TOKEN_PARTS for name, bound in _columns(part, used[part]).items()}
        for evaluation in judged
        for used in evaluation.analysis["tokens"]
    ]
    return pd.DataFrame(rows, columns=USES)


def structure_agreement(judged: Iterable[Evaluation]) -> pd.DataFrame:
    """structure_agreement.csv: how far judges of structure and the offline parser agree, by field.

    `n` counts the thoughts that the judge read and `undecided` those on which its reply was of no use. `agreed` is the
    share on which both say the same. Kappa is nan where structure.json has none.
    """
    rows = []
    for evaluation in judged:
        for judge, agreement in evaluation.parser_agreement().items():
            for name, field in agreement["fields"].items():
                row: dict[str, Any] = evaluation.names_of_row() | {"judge": judge, "field": name, "n": field["n"]}
                row |= _columns("agreed", Estimate(**field["agreed"] or UNKNOWN._asdict()))
                row |= _columns("kappa", Estimate(**field["kappa"] or UNKNOWN._asdict()))
                rows.append(row | {"undecided": agreement["undecided"]})
    return pd.DataFrame(rows, columns=AGREEMENT)
