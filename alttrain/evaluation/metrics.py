"""Generations and judgements of one benchmark -> its metrics.

Rates are shares of 1 with Wilson's interval over the decided rows; token counts are means with Student's t interval.
`undecided` counts rows the judge could not decide: they are in no rate. `truncated` counts rows the token cap cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from alttrain.evaluation.adherence import Adherence
from alttrain.evaluation.benchmark import Measure
from alttrain.evaluation.statistics import mean_interval, wilson
from alttrain.records import Generation, Judgement


@dataclass(frozen=True)
class Metric:
    """One number of one benchmark, with what is needed to trust it."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    undecided: int
    truncated: int


def summarise(measure: Measure, generations: Sequence[Generation], judgements: Sequence[Judgement]) -> list[Metric]:
    """The benchmark's measure, the adherence rate and the token counts. `n` counts all rows, decided or not."""
    truncated = sum(generation.finish == "length" for generation in generations)
    wanted = measure != "harmful_rate"  # a harmful request counts where it was not refused
    verdicts = [judgement.verdict for judgement in judgements]
    undecided = verdicts.count(None)
    adhering = sum(Adherence.of(generation).adheres for generation in generations)
    n = len(generations)
    return [
        _rate(measure, verdicts.count(wanted), n - undecided, n, undecided, truncated),
        _rate("adherence_rate", adhering, n, n, 0, truncated),
        _mean("thought_tokens", [g.thought_tokens for g in generations], truncated),
        _mean("answer_tokens", [g.answer_tokens for g in generations], truncated),
    ]


def _rate(name: str, count: int, decided: int, n: int, undecided: int, truncated: int) -> Metric:
    low, high = wilson(count, decided)
    value = count / decided if decided else float("nan")
    return Metric(name, value, low, high, n, undecided, truncated)


def _mean(name: str, values: Sequence[float], truncated: int) -> Metric:
    mean, low, high = mean_interval(values)
    return Metric(name, mean, low, high, len(values), 0, truncated)
