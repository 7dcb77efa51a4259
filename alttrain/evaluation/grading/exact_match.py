"""Exact match and F1 of short answers under SQuAD's normalisation (Rajpurkar et al., 2016), as NQ-open uses it.

What is compared, in this order of preference: a box, what follows the last "the answer is", a text in bold where there
is only one, the whole answer. Of a phrase of several sentences, every beginning that ends with one counts, up to
`LONGEST` characters, unless what follows takes it back, or the sentences are no more than a list of answers.
"""

import re
import string
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from alttrain.evaluation.grading.extraction import LONGEST, NO_ANSWER, boxed, denied, no_gold, stated
from alttrain.evaluation.judges.judge import RowJudge
from alttrain.records import Generation, Judgement

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_ENDS = re.compile(r"[.!?]\s+(?=[^\sa-z])|;\s|\n")
_AGAIN = re.compile(r"[\s.!?;]*(?:or|no|not|nope|maybe|perhaps|possibly|alternatively|just kidding)\b", re.I)
_LONGEST_ITEM = 3
"""Words of an answer that is one of a list of answers."""


@dataclass(frozen=True)
class ExactMatch(RowJudge):
    """Right where the short answer is one of the gold answers; `value` is the best F1 of their words."""

    name: str = "exact_match"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Whether they match. A row without a gold answer is undecided, with an error; no answer has F1 0."""
        golds = [gold for gold in generation.gold if gold.strip()]
        if not golds:
            return no_gold(generation, self.name)
        if not generation.answer.strip():
            return Judgement(generation.id, self.name, False, NO_ANSWER, value=0.0)
        readings = short_answers(generation.answer)
        value, reading = max(((f1(reading, gold), reading) for reading in readings for gold in golds), key=_first)
        exact = next((r for r in readings for gold in golds if normalise(r) == normalise(gold)), None)
        return Judgement(generation.id, self.name, exact is not None, exact or reading, value=value)


def _first(pair: tuple[float, str]) -> float:
    return pair[0]


def normalise(text: str) -> str:
    """Lower case without punctuation, articles and extra spaces; a text of nothing else keeps it."""
    folded = _PUNCTUATION.sub("", unicodedata.normalize("NFKC", text).lower())
    return " ".join(_ARTICLES.sub(" ", folded).split()) or folded.strip() or text.strip().rstrip(".")


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of the normalised words, counted with their repeats."""
    said, wanted = normalise(answer).split(), normalise(gold).split()
    shared = (Counter(said) & Counter(wanted)).total()
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0


def short_answers(answer: str) -> list[str]:
    """The readings of an answer's short answer, the shortest first."""
    bold = list(re.finditer(r"\*\*(.+?)\*\*", answer))
    if box := boxed(answer):
        phrase = box
    elif phrases := stated(answer):
        phrase = phrases[-1]
    elif len(bold) == 1 and not denied(answer, *bold[0].span()):
        phrase = bold[0][1]
    else:
        phrase = answer.strip()
    marks = list(_ENDS.finditer(phrase, 0, LONGEST))
    items = [item.split() for item in _ENDS.split(phrase[:LONGEST]) if item.strip()]
    listed = len(items) > (2 if all(mark[0][0] in ".!?" for mark in marks) else 1)
    if listed and max(map(len, items)) <= _LONGEST_ITEM:
        return [phrase]
    ends = (mark.start() for mark in marks if not _AGAIN.match(phrase, mark.start(), mark.start() + 40))
    return [*dict.fromkeys([*(phrase[:end] for end in ends), phrase])]
