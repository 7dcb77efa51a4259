"""What a table's columns are: a measure, and how and on what it was made.

A column's numbers were made alike: by one protocol, on the same benchmarks, with the same hash for each. Means and
pools are taken over one set of benchmarks for all rows, the set that most rows have; a row without it has no such cell.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from alttrain.report.variants import Made, Variant

GENERAL = ("nq_open", "cmmlu", "cnn_dailymail")
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
    "examples": Measure("training examples", 0, "examples"),
    "training_tokens": Measure("training tokens", 0, "tokens"),
    "training_seconds": Measure("training seconds", 0, "seconds"),
    "training_hours": Measure("GPU-hours", 0, "hours"),
}
RATES = ("harmful_rate", "over_refusal_rate", "accuracy")
CAUSES = ("misjudged", "disobeyed", "unassessed")
FAILURES = tuple(f"{outcome}_{cause}" for outcome in ("answered", "refused") for cause in CAUSES)
ASSESSING = ("adherence_rate", "precision", "recall", "false_alarms", *FAILURES)
TOKENS = ("thought_tokens", "answer_tokens", "query_tokens")
TRAINING = ("examples", "training_tokens", "training_seconds", "training_hours")


@dataclass(frozen=True)
class Column:
    """A measure of one protocol on one benchmark (`kind` "rate"), as the mean over several ("mean"), over the prompts
    of several together ("pool"), or of the training ("training", `made` empty)."""

    measure: str
    protocol: str
    made: tuple[Made, ...]
    kind: Literal["rate", "mean", "pool", "training"] = "rate"

    @property
    def of(self) -> Measure:
        """How it is written; a rate that another part or judge decides is written as the rate is."""
        return MEASURES[self.measure.partition(".")[0]]

    @property
    def benchmark(self) -> str:
        """The benchmarks' names."""
        return " + ".join(benchmark for _, benchmark, _ in self.made)

    @property
    def protocol_hash(self) -> str:
        """The benchmarks' hashes."""
        return " + ".join(digest for _, _, digest in self.made)


def rate_columns(variants: Iterable[Variant], protocol: str, others: bool = False) -> list[Column]:
    """A column for each benchmark's measure, and with `others` for the same by other parts and judges."""
    found = set()
    for variant in variants:
        for made, seeds in variant.judged.items():
            if made[0] != protocol:
                continue
            for metric in next(iter(seeds.values())).judged["metrics"]:
                name = metric["metric"]
                if name in (*RATES, "score") or (others and name.partition(".")[0] in RATES):
                    found.add(Column(name, protocol, (made,)))
    order = list(MEASURES)
    return sorted(found, key=lambda c: (order.index(c.measure.partition(".")[0]), c.made[0][1], c.measure, c.made))


def apart(benchmark: str) -> bool:
    """Whether a benchmark has a table of its own."""
    return benchmark in (*GENERAL, *MULTI_TURN) or benchmark.startswith(MULTILINGUAL)


def mean_column(variants: Sequence[Variant], protocol: str, measure: str) -> Column | None:
    """The mean of a measure over the sets that most variants have; None where no two sets are shared."""
    sets = [
        frozenset(
            made
            for made, seeds in variant.judged.items()
            if made[0] == protocol
            and not apart(made[1])
            and next(iter(seeds.values())).judged["metrics"][0]["metric"] == measure
        )
        for variant in variants
    ]
    shared = _shared([own for own in sets if len(own) > 1], least=2)
    return Column(measure, protocol, shared, "mean") if shared else None


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
