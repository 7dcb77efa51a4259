"""The grader of short factual answers: does an answer hold the gold answer as whole words and numbers?"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from alttrain.evaluation.grading.extraction import no_gold
from alttrain.evaluation.judges.desk import OneByOne
from alttrain.records import Generation, Judgement

_TOKEN = re.compile(r"(?<![\w.,])-?\d[\d,]*(?:\.\d+)?|\w+(?:'\w+)*")


def tokens(text: str) -> tuple[str, ...]:
    """Lower-cased words and whole numbers of a text: "100,000" and "7.5" are one token each, commas dropped."""
    folded = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("−", "-")
    return tuple(token.replace(",", "") for token in _TOKEN.findall(folded))


@dataclass(frozen=True)
class ShortAnswer(OneByOne):
    """Right where the answer holds one of the gold answers as whole words and numbers, case and punctuation aside."""

    name: str = "short_answer"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Whether the answer is right. A row without a gold answer is undecided, with an error."""
        golds = [gold for gold in generation.gold if tokens(gold)]
        if not golds:
            return no_gold(generation, self.name)
        said = f" {' '.join(tokens(generation.answer))} "
        found = next((gold for gold in golds if f" {' '.join(tokens(gold))} " in said), None)
        return Judgement(generation.id, self.name, found is not None, found or "")
