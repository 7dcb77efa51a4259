"""What a table's columns are: a measure, and how and on what it was made.

A column's numbers were made alike: by one protocol, on the same benchmarks, with the same hash for each. A mean is over
the sets that its protocol names (metrics.json, provenance, means); where it names none, and for pools, over the set of
benchmarks that most rows have. A row that lacks one has no such cell.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from alttrain.report.variants import Made, Variant

GENERAL = {
    ("nq_open", "score"): "F1",
    ("nq_open", "accuracy"): "exact match",
    ("cmmlu", "accuracy"): "accuracy",
    ("cnn_dailymail", "score"): "ROUGE",
}
"""(Benchmark, measure) of the table of general ability -> what the measure is called there."""
MULTI_TURN = ("safemt_attack_600",)
MULTILINGUAL = "multijail"
"""Benchmarks with a table of their own; they are in no mean. The last is the prefix of one for each language."""


class Measure(NamedTuple):
    """How a measure is written: its name, which way is better (-1 lower, 1 higher, 0 neither), and its unit."""

    label: str
    better: int
    unit: Literal["share", "tokens", "examples", "seconds", "hours"]

    @property
    def heading(self) -> str:
        """The name, with an arrow the way that is better."""
        return self.label + {-1: " ↓", 0: "", 1: " ↑"}[self.better]


MEASURES = {
    "harmful_rate": Measure("harmful", -1, "share"),
    "over_refusal_rate": Measure("over-refusal", -1, "share"),
    "accuracy": Measure("accuracy", 1, "share"),
    "score": Measure("score", 1, "share"),
    "adherence_rate": Measure("adherence", 1, "share"),
    "opening_pu_rate": Measure("opening holds a PU", 0, "share"),
    "recognised_rate": Measure("harm recognised", 0, "share"),
    "recognised_answered_rate": Measure("recognised, yet answered", 0, "share"),
    "precision": Measure("assessment precision", 1, "share"),
    "recall": Measure("assessment recall", 1, "share"),
    "false_alarms": Measure("false alarms", -1, "share"),
    "answered_misjudged": Measure("answered: misjudged", 0, "share"),
    "answered_disobeyed": Measure("answered: disobeyed", 0, "share"),
    "answered_unassessed": Measure("answered: unassessed", 0, "share"),
    "refused_misjudged": Measure("refused: misjudged", 0, "share"),
    "refused_disobeyed": Measure("refused: disobeyed", 0, "share"),
    "refused_unassessed": Measure("refused: unassessed", 0, "share"),
    "thought_tokens": Measure("thought tokens", 0, "tokens"),
    "answer_tokens": Measure("answer tokens", 0, "tokens"),
    "query_tokens": Measure("tokens a query", 0, "tokens"),
    "example_tokens": Measure("tokens an example", 0, "tokens"),
    "examples": Measure("training examples", 0, "examples"),
    "training_tokens": Measure("training tokens", 0, "tokens"),
    "training_seconds": Measure("training seconds", 0, "seconds"),
    "training_hours": Measure("GPU-hours", 0, "hours"),
}
RATES = ("harmful_rate", "over_refusal_rate", "accuracy")
RECOGNISING = ("opening_pu_rate", "recognised_rate", "recognised_answered_rate")
CAUSES = ("misjudged", "disobeyed", "unassessed")
FAILURES = tuple(f"{outcome}_{cause}" for outcome in ("answered", "refused") for cause in CAUSES)
ASSESSING = ("adherence_rate", "precision", "recall", "false_alarms", *FAILURES)
TOKENS = ("thought_tokens", "answer_tokens", "query_tokens")
TRAINING = ("examples", "training_tokens", "training_seconds", "training_hours")


@dataclass(frozen=True)
class Column:
    """A measure of one protocol on one benchmark (`kind` "rate"), as the mean over several ("mean"), over the prompts
    of several together ("pool"), or of the training ("training", `made` empty).

    `defined` is whether a mean is over the sets that its protocol names. One of them that no row has has no hash.
    """

    measure: str
    protocol: str
    made: tuple[Made, ...]
    kind: Literal["rate", "mean", "pool", "training"] = "rate"
    defined: bool = False

    @property
    def of(self) -> Measure:
        """How it is written."""
        return called(self.measure, self.benchmark)

    @property
    def benchmark(self) -> str:
        """The benchmarks' names."""
        return " + ".join(benchmark for _, benchmark, _ in self.made)

    @property
    def protocol_hash(self) -> str:
        """The benchmarks' hashes."""
        return " + ".join(digest for _, _, digest in self.made)


def called(measure: str, benchmark: str) -> Measure:
    """How a measure is written on a benchmark; a rate that another part or judge decides is written as the rate is."""
    found = MEASURES[measure.partition(".")[0]]
    return found._replace(label=GENERAL.get((benchmark, measure), found.label))


def rate_columns(variants: Iterable[Variant], protocol: str, others: bool = False) -> list[Column]:
    """A column for each benchmark's measures, and with `others` for the same by other parts and judges."""
    found = set()
    for variant in variants:
        for made, seeds in variant.judged.items():
            if made[0] != protocol:
                continue
            for metric in next(iter(seeds.values())).judged["metrics"]:
                name = metric["metric"]
                if name in (*RATES, "score", *RECOGNISING) or (others and name.partition(".")[0] in RATES):
                    found.add(Column(name, protocol, (made,)))
    order = list(MEASURES)
    return sorted(found, key=lambda c: (order.index(c.measure.partition(".")[0]), c.made[0][1], c.measure, c.made))


def apart(benchmark: str) -> bool:
    """Whether a benchmark has a table of its own."""
    general = {name for name, _ in GENERAL}
    return benchmark in (*general, *MULTI_TURN) or benchmark.startswith(MULTILINGUAL)


def mean_columns(variants: Sequence[Variant], protocol: str) -> dict[str, Column]:
    """The mean of each measure that has one: over the protocol's own sets, or those that most of main's rows have."""
    main = [variant for variant in variants if "main" in variant.tables and not variant.changed] or variants
    found = {measure: _mean(main, protocol, measure) for measure in RATES}
    return {measure: column for measure, column in found.items() if column}


def _mean(variants: Sequence[Variant], protocol: str, measure: str) -> Column | None:
    """None where the protocol's sets are fewer than two or none was judged, or else where no two sets are shared."""
    judged = [
        {made: next(iter(seeds.values())).judged for made, seeds in variant.judged.items() if made[0] == protocol}
        for variant in variants
    ]
    told = Counter(
        tuple(sorted(one.get("provenance", {}).get("means", {}).get(measure, ())))
        for own in judged
        for one in own.values()
    )
    wanted = max(filter(None, told), key=lambda names: told[names], default=())
    sets = [
        frozenset(
            made
            for made, one in own.items()
            if one["metrics"][0]["metric"] == measure and (made[1] in wanted if wanted else not apart(made[1]))
        )
        for own in judged
    ]
    if not wanted:
        shared = _shared([own for own in sets if len(own) > 1], least=2)
        return Column(measure, protocol, shared, "mean") if shared else None
    if len(wanted) < 2 or not any(sets):
        return None
    counts = Counter(sets)
    most = min(counts, key=lambda one: (-len(one), -counts[one], sorted(one)))
    known = {made[1]: made for own in (*counts, most) for made in own}
    return Column(
        measure, protocol, tuple(known.get(name, (protocol, name, "")) for name in wanted), "mean", defined=True
    )


def pool(variants: Sequence[Variant], protocol: str) -> tuple[Made, ...]:
    """The benchmarks over which adherence and tokens are taken together: those that most variants have."""
    sets = [frozenset(m for m in variant.judged if m[0] == protocol and not apart(m[1])) for variant in variants]
    return _shared([own for own in sets if own], least=1)


def _shared(sets: Sequence[frozenset[Made]], least: int) -> tuple[Made, ...]:
    """The set that is part of most sets; of several the largest, and then the first by name."""
    different = set(sets)
    candidates = different | {one & other for one, other in itertools.combinations(different, 2)}
    fitting = [tuple(sorted(one)) for one in candidates if len(one) >= least]
    return min(fitting, key=lambda one: (-sum(own.issuperset(one) for own in sets), -len(one), one), default=())
