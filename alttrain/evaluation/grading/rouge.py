"""ROUGE of a summary by Google's rouge-score: a graded value, no verdict unless there is a threshold for it."""

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from alttrain.evaluation.grading.extraction import NO_ANSWER, no_gold
from alttrain.evaluation.judges.judge import RowJudge
from alttrain.records import Generation, Judgement


@dataclass(frozen=True)
class Rouge(RowJudge):
    """`value` is the F measure, with stemming, against the gold summary that fits best. English only: the tokenizer
    knows no other letters than a to z. Without a `threshold` to reach, the verdict stays None. The longest common
    sequence takes time by the words of the answer times those of the summary: some 3 s for 40,000 and 160.
    """

    kind: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"
    threshold: Annotated[float, Ge(0), Le(1)] | None = None
    name: str = "rouge"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """The F measure. A row without a gold summary has none, with an error; no answer scores 0."""
        golds = [gold for gold in generation.gold if gold.strip()]
        if not golds:
            return no_gold(generation, self.name)
        value = max(float(_scorer(self.kind).score(gold, generation.answer)[self.kind].fmeasure) for gold in golds)
        verdict = None if self.threshold is None else value >= self.threshold
        evidence = f"{self.kind} {value:.4f}" if generation.answer.strip() else NO_ANSWER
        return Judgement(generation.id, self.name, verdict, evidence, value=value)


@functools.cache
def _scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=True)
