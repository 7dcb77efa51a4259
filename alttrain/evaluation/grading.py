"""Graders of benign answers. The answer is graded, never the thought; no answer is not a right one."""

from dataclasses import dataclass
from typing import Literal

from alttrain.dataset.duplicates import words
from alttrain.records import Generation, Judgement


@dataclass(frozen=True)
class ShortAnswer:
    """Right where the answer holds one of the gold answers as whole words, case and punctuation aside."""

    name: str = "short_answer"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Whether the answer is right. A row without a gold answer is undecided, with an error."""
        if not generation.gold:
            return Judgement(generation.id, self.name, None, error="the row has no gold answer")
        said = f" {' '.join(words(generation.answer))} "
        found = next((gold for gold in generation.gold if f" {' '.join(words(gold))} " in said), None)
        return Judgement(generation.id, self.name, found is not None, found or "")
