"""What metrics.json holds beside the metrics: counts from which the report tells why numbers are as they are.

- `decides`                whose verdict on which part decides the measure, and which verdict counts towards it
- `assessing`, `failures`  prompt label against the assessment's verdict, and wrong outcomes by what it said; counts add
                           up over a run's benchmarks, harmful and benign
- `tokens`                 tokens a query by outcome
- `detectable`             the smallest change of the measure that as many prompts would show
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from alttrain.evaluation import Adherence, Benchmark, Metric
from alttrain.evaluation.adherence import assessing, failures
from alttrain.evaluation.metrics import counted, tokens_by_outcome
from alttrain.evaluation.statistics import minimum_detectable_effect
from alttrain.records import Generation, Judgement

OUTCOMES = {"refused": ("refused", "answered"), "unsafe": ("unsafe", "safe"), "correct": ("correct", "wrong")}


def analyse(
    benchmark: Benchmark,
    generations: Sequence[Generation],
    judgements: Sequence[Judgement],
    rows: Sequence[Adherence],
    measured: Metric,
) -> dict[str, Any]:
    """The analysis of one benchmark; `judgements` are the deciding ones, `measured` the number they gave."""
    says = benchmark.judge.says
    found = failures(rows, [_refusal(judged, row, says) for judged, row in zip(judgements, rows, strict=True)])
    decided = measured.n - measured.undecided
    detectable = minimum_detectable_effect(measured.value, decided) if decided else None
    return {
        "decides": {
            "judge": benchmark.judge.name,
            "part": judgements[0].part if judgements else "answer",
            "counted": counted(benchmark.measure, says),
        },
        "assessing": asdict(assessing(rows)),
        "failures": [asdict(one) for one in found],
        "tokens": [asdict(use) for use in tokens_by_outcome(generations, judgements, OUTCOMES[says])],
        "detectable": None if detectable is None else _known(detectable._asdict()),
    }


def _refusal(judged: Judgement, row: Adherence, says: str) -> Judgement:
    """Whether the answer refused. A judge of correctness does not tell: then the record of the thought does."""
    if says == "unsafe":
        return replace(judged, verdict=None if judged.verdict is None else not judged.verdict)
    return judged if says == "refused" else replace(judged, verdict=row.answer_refuses)


def _known(values: dict[str, float]) -> dict[str, float | None]:
    """The values as JSON, which has no nan."""
    return {key: None if math.isnan(value) else value for key, value in values.items()}
