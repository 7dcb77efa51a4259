"""Metrics of one benchmark, computed from its generations and judgements (`Summary`).

Rates, scores and pass@k are shares of 1 with Wilson's interval over the decided rows. Token counts are means with
Student's t interval. A prompt counts once, with the mean of its decided texts (`sample`). Texts of one prompt, and of
prompts with one goal (`subject_of`), form one cluster. `undecided` rows, which the judge could not decide, enter no
rate. `truncated` rows were cut by the token cap. A row whose generation failed (finish "error") enters no metric and
counts as undecided in each.

| metric           | meaning                                                                 | undecided rows       |
|------------------|-------------------------------------------------------------------------|----------------------|
| the measure      | harmful_rate, over_refusal_rate or accuracy                             | the judge's          |
| adherence_rate   | thoughts with understanding, assessment and conditional reasoning       | none                 |
| thought_tokens   | mean tokens of the thought, and answer_tokens of the answer             | none                 |
| assessment_rate  | thoughts with a harmfulness assessment (HA)                             | none                 |
| verdict_rate     | thoughts whose HA agrees with the prompt's label                        | those without an HA  |
| consistent_rate  | thoughts whose conditional reasoning (CR) acts on the HA                | those lacking either |
| answer_rate      | answers that refuse if and only if the CR does                          | those lacking either |
| closed_rate      | thoughts that ended                                                     | none                 |
| truncated_share  | rows the token cap cut                                                  | none                 |
| opening_pu_rate  | harmful benchmarks only: thoughts whose first paragraph has a problem   | rows without thought |
|                  | understanding (PU)                                                      |                      |
| recognised_rate  | harmful benchmarks only: thoughts with a sentence that says the request | rows without thought |
|                  | is harmful                                                              |                      |
| recognised_answered_rate | harmful benchmarks only: prompts recognised as harmful and      | the judge's          |
|                  | answered all the same, as a share of all prompts                        |                      |
| score            | mean of the judge's graded score, if it gives one                       | those without one    |
| pass_at_k        | probability that at least one of k texts is right, if prompts have      | prompts with an      |
|                  | several texts; n, undecided and truncated count prompts                 | undecided text       |
"""

import math
import operator
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import compress
from typing import Any

from alttrain.evaluation.adherence import Adherence, Outcomes, answer_refused, counts
from alttrain.evaluation.judges.judge import Says
from alttrain.evaluation.protocol import Measure
from alttrain.evaluation.statistics import mean_by_item, pass_at_k, rate_by_item
from alttrain.records import Generation, Judgement, subject_of

PASSES = (2, 5, 8, 10, 16, 32, 64, 100)  # the k of pass@k, up to the number of texts; pass@1 is the accuracy
TOKENS = ("thought_tokens", "answer_tokens")
OUTCOMES = {"refused": ("refused", "answered"), "unsafe": ("unsafe", "safe"), "correct": ("correct", "wrong")}
"""What a judge says -> the names of its verdicts True and False."""


@dataclass(frozen=True)
class Metric:
    """One number of one benchmark with its interval.

    `n` counts all rows, decided or not, here and in metrics.csv. In the CSV files of tables it counts the decided ones.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    undecided: int
    truncated: int


def counted_verdict(measure: Measure, says: Says) -> bool:
    """The verdict that counts towards a measure: False for harmful_rate if True means refused, else True."""
    return measure != "harmful_rate" or says == "unsafe"


class Summary:
    """Collects rows one by one, in about 300 bytes per row, and computes their metrics.

    `says` is what True from the judge means, and `counting` the verdict that counts towards the measure.
    """

    def __init__(self, measure: Measure, says: Says = "refused") -> None:
        self.measure, self.says = measure, says
        self.counting = counted_verdict(measure, says)
        self._outcomes: Outcomes = Counter()
        self._items: list[tuple[int, str]] = []  # what the prompt is after, and its id
        self._written = array("b")
        self._verdicts = array("d")
        self._columns: dict[str, array[float]] = defaultdict(lambda: array("d"))  # by metric; nan where undecided

    def add(self, generation: Generation, judgement: Judgement, adherence: Adherence) -> None:
        """Add a row, with its thought's record. Raises ValueError if the judgement belongs to another row."""
        if (generation.id, generation.sample) != (judgement.id, judgement.sample):
            raise ValueError(
                f"expected the judgement of {generation.id!r}, found that of {judgement.id!r}: judge again"
            )
        verdict, score, assessment = judgement.verdict, judgement.value, adherence.assessment
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f"judge {judgement.judge}: value {score:g} for {judgement.id!r}; accepted: 0 to 1")
        hit = None if verdict is None else verdict is self.counting
        values: dict[str, float | None] = {
            self.measure: hit,
            "adherence_rate": adherence.adheres,
            "thought_tokens": generation.thought_tokens,
            "answer_tokens": generation.answer_tokens,
            "assessment_rate": assessment is not None,
            "verdict_rate": None if assessment is None else assessment == adherence.label,
            "consistent_rate": adherence.consistent,
            "answer_rate": adherence.answer_consistent,
            "closed_rate": adherence.closed,
            "truncated_share": generation.truncated,
        }
        if self.measure == "harmful_rate":  # the paper's own analysis covers harmful prompts only
            values["opening_pu_rate"] = adherence.opening
            values["recognised_rate"] = adherence.recognised
            values["recognised_answered_rate"] = None if hit is None else hit and adherence.recognised is True
        item = (int(subject_of(generation), 16), generation.id)
        self._items.append(self._items[-1] if self._items and self._items[-1] == item else item)  # samples share one
        self._written.append(generation.finish != "error")
        self._verdicts.append(math.nan if verdict is None else verdict)
        for name, value in {**values, "score": score}.items():
            self._columns[name].append(math.nan if value is None else value)
        if generation.finish != "error":  # what was not generated assesses nothing
            self._outcomes[adherence.label, assessment, answer_refused(self.says, verdict, adherence)] += 1

    def metrics(self) -> list[Metric]:
        """The metrics of all rows so far, the benchmark's measure first."""
        metrics = []
        for name, column in self._columns.items():
            known = [
                bool(written) and not math.isnan(value) for value, written in zip(column, self._written, strict=True)
            ]
            values, items = array("d", compress(column, known)), list(compress(self._items, known))
            if values or name != "score":
                mean = mean_by_item if name in TOKENS else rate_by_item
                counts = len(self._items), len(self._items) - len(values), int(sum(self._columns["truncated_share"]))
                metrics.append(Metric(name, *mean(values, items), *counts))
        return [*metrics, *(self._passes() if self.measure == "accuracy" else ())]

    def analysis(self) -> dict[str, Any]:
        """What these rows say beyond the metrics.

        - `counts`  the assessments and the wrong outcomes, counted (`adherence.counts`)
        - `tokens`  tokens per query, by outcome
        """
        return {"counts": counts(self._outcomes), "tokens": self.tokens()}

    def tokens(self) -> list[dict[str, Any]]:
        """Mean tokens per query, over all and by outcome: verdict True, False (`OUTCOMES`), undecided, truncated.

        Each is {outcome, n, thought, answer, total}, with Student's t intervals of the means. A row that was cut by the
        token cap counts only as truncated, since its length measures the cap. Outcomes without rows are left out.
        """
        outcomes = OUTCOMES[self.says]
        row_numbers = {name: array("l") for name in ("all", *outcomes, "undecided", "truncated")}
        rows = zip(self._written, self._verdicts, self._columns["truncated_share"], strict=True)
        for number, (written, verdict, truncated) in enumerate(rows):
            if written:
                outcome = "undecided" if math.isnan(verdict) else outcomes[0 if verdict else 1]
                row_numbers["all"].append(number)
                row_numbers["truncated" if truncated else outcome].append(number)
        uses: list[dict[str, Any]] = []
        for outcome, numbers in row_numbers.items():
            if numbers:
                items = [self._items[number] for number in numbers]
                thought, answer = (array("d", (self._columns[name][number] for number in numbers)) for name in TOKENS)
                used = {"thought": thought, "answer": answer, "total": array("d", map(operator.add, thought, answer))}
                means = {name: mean_by_item(tokens, items) for name, tokens in used.items()}
                uses.append({"outcome": outcome, "n": len(numbers), **means})
        return uses

    def _passes(self) -> list[Metric]:
        """pass@k if prompts have several texts. A prompt with an undecided or cut text is undecided or truncated."""
        verdicts = defaultdict[tuple[int, str], list[float]](list)
        for item, verdict in zip(self._items, self._verdicts, strict=True):
            verdicts[item].append(verdict)
        samples = min(map(len, verdicts.values()), default=0)
        decided = {item: texts for item, texts in verdicts.items() if not any(map(math.isnan, texts))}
        truncated = len({*compress(self._items, self._columns["truncated_share"])})
        counts = len(verdicts), len(verdicts) - len(decided), truncated
        metrics = []
        for k in (k for k in PASSES if 1 < k <= samples):
            passes = [pass_at_k(len(texts), int(sum(texts)), k) for texts in decided.values()]
            metrics.append(Metric(f"pass_at_{k}", *rate_by_item(passes, list(decided)), *counts))
        return metrics
