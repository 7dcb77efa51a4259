"""What metrics.json holds beside the metrics: counts from which the report tells why numbers are as they are.

- `decides`                whose verdict on which part decides the measure, and which verdict counts towards it
- `assessing`, `failures`  prompt label against the assessment's verdict, and wrong outcomes by what it said; counts add
                           up over a run's benchmarks, harmful and benign
- `tokens`                 tokens a query by outcome
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from alttrain.evaluation import Adherence, Benchmark
from alttrain.evaluation.adherence import Outcomes, assessing, failures
from alttrain.evaluation.metrics import Summary, counted
from alttrain.records import Generation, Judgement

OUTCOMES = {"refused": ("refused", "answered"), "unsafe": ("unsafe", "safe"), "correct": ("correct", "wrong")}


def analyse(
    benchmark: Benchmark,
    generations: Sequence[Generation],
    judgements: Sequence[Judgement],
    rows: Sequence[Adherence],
) -> dict[str, Any]:
    """The analysis of one benchmark; `judgements` are the deciding ones."""
    counts = Counts(benchmark)
    for made, judged, row in zip(generations, judgements, rows, strict=True):
        counts.add(made, judged, row)
    return counts.analysis(judgements[0].part if judgements else "answer")


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

    def analysis(self, part: str) -> dict[str, Any]:
        """The analysis in metrics.json; `part` was judged."""
        says = self._judge.says
        return {
            "decides": {"judge": self._judge.name, "part": part, "counted": counted(self._measure, says)},
            "assessing": asdict(assessing(self._outcomes)),
            "failures": [asdict(one) for one in failures(self._outcomes)],
            "tokens": [asdict(use) for use in self.summary.tokens(OUTCOMES[says])],
        }

    def _refused(self, judged: Judgement, row: Adherence) -> bool | None:
        """Whether the answer refused. A judge of correctness does not tell: then the record of the thought does."""
        if self._judge.says == "unsafe":
            return None if judged.verdict is None else not judged.verdict
        return judged.verdict if self._judge.says == "refused" else row.answer_refuses
