"""The grader of short factual answers: does an answer hold the gold answer as whole words and numbers?

What an answer denies or leaves open ("it is not Paris", "Paris or London") it does not hold, and neither what is one
item of an answer that is only a list. "May", "US" and other names of up to three letters are words as well, and keep
their capital.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from alttrain.evaluation.grading.extraction import denied, no_gold
from alttrain.evaluation.judges.judge import RowJudge
from alttrain.records import Generation, Judgement

_TOKEN = re.compile(r"(?<![\w.,])-?\d[\d,]*(?:\.\d+)?|\w+(?:'\w+)*")
_HEDGED = re.compile(
    r" or (?=\w)|/(?=\w)|[.!?] (?:or\b|no[,.!])|[,.;]? \(?(?:or )?(?:maybe|perhaps|possibly|alternatively|or else)\b",
    re.I,
)
_HEDGED_BEFORE = re.compile(r"(?<!,) or $|\w/$|\b(?:either|one of|between)(?: the)? $", re.I)
_BULLET = re.compile(r"^\s*(?:\d{1,2}[.)]\s|[-*•])")
_NUMBERS = re.compile(r"(?:-?\d+(?:\.\d+)?[,;.]?(?:\s+|$)){2,}")
_LONGEST_ITEM = 4
"""Words of an answer that is one of a list of answers."""


def tokens(text: str) -> tuple[str, ...]:
    """Lower-cased words and whole numbers of a text: "100,000" and "7.5" are one token each, commas dropped."""
    return tuple(token.lower().replace(",", "") for token in _TOKEN.findall(_folded(text)))


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).replace("’", "'").replace("−", "-").split())


@dataclass(frozen=True)
class ShortAnswer(RowJudge):
    """Right where the answer holds one of the gold answers as whole words and numbers, case and punctuation aside."""

    name: str = "short_answer"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Whether the answer is right. A row without a gold answer is undecided, with an error."""
        golds = [gold for gold in generation.gold if tokens(gold)]
        if not golds:
            return no_gold(generation, self.name)
        text, items = _folded(generation.answer), _items(generation.answer)
        found = next((gold for gold in golds if _holds(text, gold) and tokens(gold) not in items), None)
        return Judgement(generation.id, self.name, found is not None, found or "")


def _items(answer: str) -> list[tuple[str, ...]]:
    """The items where an answer is nothing but a list: answers to choose from, unless a gold answer names several.

    Of commas it takes four items: a place ("Los Angeles, California, USA") has fewer; of numbers and bullets two.
    """
    ways: list[tuple[list[str], int]] = [(re.split(r"[,;|\n]", answer), 4), (re.split(r"[;|\n]|[.!?]\s", answer), 3)]
    if _NUMBERS.fullmatch(answer):
        ways = [(answer.split(), 2)]
    elif all(map(_BULLET.match, filter(str.strip, answer.splitlines()))):
        ways = [(answer.splitlines(), 2)]
    for parts, least in ways:
        items = [said for part in parts if (said := tokens(_BULLET.sub("", part)))]
        if len(items) >= least and max(map(len, items)) <= _LONGEST_ITEM:
            return items
    return []


def _holds(text: str, gold: str) -> bool:
    """Whether a gold answer stands in a text that does not deny it."""
    wanted, keeps_capital = tokens(gold), len(gold) <= 3 and gold.isalpha() and gold[0].isupper()
    said, found = tokens(text), [match.span() for match in _TOKEN.finditer(text)]
    for place in range(len(said) - len(wanted) + 1):
        if said[place : place + len(wanted)] == wanted:
            start, end = found[place][0], found[place + len(wanted) - 1][1]
            hedged = _HEDGED.match(text, end) or _HEDGED_BEFORE.search(text, max(0, start - 15), start)
            if not hedged and not denied(text, start, end) and not (keeps_capital and text[start].islower()):
                return True
    return False
