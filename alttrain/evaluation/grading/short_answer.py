"""The grader of short factual answers: does an answer hold the gold answer as whole words and numbers?

What an answer denies ("it is not Paris", "Paris is not it") it does not hold. "May", "US" and other names of up to
three letters are words as well, and keep their capital.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from alttrain.evaluation.grading.extraction import no_gold
from alttrain.evaluation.judges.desk import OneByOne
from alttrain.records import Generation, Judgement

_TOKEN = re.compile(r"(?<![\w.,])-?\d[\d,]*(?:\.\d+)?|\w+(?:'\w+)*")
_DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot be|rather than|instead of|other than)|n't)"
    r"(?: (?:a|an|the|in|by|called|be|really|actually))* $"
)
_DENIES = re.compile(
    r" (?:is|was)(?:(?: not|n't)(?: (?:it|the|correct|right|true)\b|[.,!]|$)| (?:wrong|incorrect|false)\b)"
)


def tokens(text: str) -> tuple[str, ...]:
    """Lower-cased words and whole numbers of a text: "100,000" and "7.5" are one token each, commas dropped."""
    return tuple(token.lower().replace(",", "") for token in _TOKEN.findall(_folded(text)))


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).replace("’", "'").replace("−", "-").split())


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
        found = next((gold for gold in golds if _holds(_folded(generation.answer), gold)), None)
        return Judgement(generation.id, self.name, found is not None, found or "")


def _holds(text: str, gold: str) -> bool:
    """Whether a gold answer stands in a text that does not deny it."""
    wanted, keeps_capital = tokens(gold), len(gold) <= 3 and gold.isalpha() and gold[0].isupper()
    said, found = tokens(text), [match.span() for match in _TOKEN.finditer(text)]
    for place in range(len(said) - len(wanted) + 1):
        if said[place : place + len(wanted)] == wanted:
            start, end = found[place][0], found[place + len(wanted) - 1][1]
            denied = _DENIED.search(text[max(0, start - 60) : start].lower()) or _DENIES.match(text, end)
            if not denied and not (keeps_capital and text[start].islower()):
                return True
    return False
