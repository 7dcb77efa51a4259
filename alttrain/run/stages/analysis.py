"""What metrics.json holds beside the metrics: counts from which the report tells why numbers are as they are.

- `decides`                whose verdict on which part decides the measure, and which verdict counts towards it
- `assessing`, `failures`  prompt label against the assessment's verdict, and wrong outcomes by what it said; counts add
                           up over a run's benchmarks, harmful and benign
- `tokens`                 tokens a query by outcome
- `detectable`             the smallest change of the measure that as many prompts would show
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from alttrain.evaluation import Adherence, Benchmark, Metric
from alttrain.evaluation.adherence import Outcomes, assessing_of, failures_of
from alttrain.evaluation.metrics import Summary, counted
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
    counts = Counts(benchmark)
    for made, judged, row in zip(generations, judgements, rows, strict=True):
        counts.add(made, judged, row)
    return counts.analysis(judgements[0].part if judgements else "answer", measured)


class Counts:
    """`analyse` for rows that come one by one. `summary` has the metrics of the deciding judgements."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._judge = benchmark.judge
        self._measure = benchmark.measure
        self.summary = Summary(benchmark.measure, benchmark.judge.says)
        self._outcomes: Outcomes = Counter()

    def add(self, made: Generation, judged: Judgement, row: Adherence) -> None:
        """One row: its deciding judgement, and what its thought holds."""
        self.summary.add(made, judged, row)
        self._outcomes[row.label, row.assessment, self._refused(judged, row)] += 1

    def analysis(self, part: str, measured: Metric) -> dict[str, Any]:
        """What stands in metrics.json; `part` was judged, and `measured` is the number."""
        decided = measured.n - measured.undecided
        detectable = minimum_detectable_effect(measured.value, decided) if decided else None
        says = self._judge.says
        return {
            "decides": {"judge": self._judge.name, "part": part, "counted": counted(self._measure, says)},
            "assessing": asdict(assessing_of(self._outcomes)),
            "failures": [asdict(one) for one in failures_of(self._outcomes)],
            "tokens": [asdict(use) for use in self.summary.tokens(OUTCOMES[says])],
            "detectable": None if detectable is None else _known(detectable._asdict()),
        }

    def _refused(self, judged: Judgement, row: Adherence) -> bool | None:
        """Whether the answer refused. A judge of correctness does not tell: then the record of the thought does."""
        if self._judge.says == "unsafe":
            return None if judged.verdict is None else not judged.verdict
        return judged.verdict if self._judge.says == "refused" else row.answer_refuses


def _known(values: dict[str, float]) -> dict[str, float | None]:
    """The values as JSON, which has no nan."""
    return {key: None if math.isnan(value) else value for key, value in values.items()}
