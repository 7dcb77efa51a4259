"""Exact match and F1 of short answers under SQuAD's normalisation (Rajpurkar et al., 2016), as NQ-open uses it.

What is compared, in this order of preference: a box, what follows the last "the answer is", a text in bold where there
is only one, the whole answer. Of a phrase of several sentences, every beginning that ends with one counts, up to
`LONGEST` characters, unless what follows takes it back or doubts it, or the sentences are no more than a list of
answers. What is put as a question ("Paris?") is no exact match, unless the gold answer is a question or what follows
says yes.
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
_CLOSES = r"[\s.,!;*_)}\]$\\\"'”’-]*"
_DOUBTED = re.compile(
    rf"(?:{_CLOSES}\?)?{_CLOSES}(?:(?:but|though|although|well|hmm)\b,? )?"
    r"(?:I (?:\w+ly )?(?:very much )?doubt (?:it|that|this)|I (?:do not|don['’]t) (?:think|believe) (?:so|it|that)"
    r"|(?:I am |I['’]m )?not (?:\w+ )?(?:sure|certain|convinced)(?: about (?:it|that|this))?"
    r"|(?:(?:it is|it['’]s|that is|that['’]s) (?:(?!not)\w+ )?)(?:doubtful|unlikely|wrong|incorrect|false)"
    r"|hardly|unlikely|doubtful|who knows)\s*(?:[.,!?;…]|$)",
    re.I,
)
"""A sentence that only doubts what is before it: "I doubt it.", not "I doubt it is London."."""
_ASKED = re.compile(
    rf"{_CLOSES}\?(?!\W*(?:yes|yep|indeed|correct|right|of course|certainly|definitely|absolutely)\b)", re.I
)
_QUESTION = re.compile(r"(?:wh\w+|how|is|are|was|were|do|does|did|can|could|will|would|shall|should|have|has)\b", re.I)
_READ_AFTER = 80
"""Characters after a reading in which it is asked or doubted."""
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
        scored = ((f1(reading, gold), reading) for reading in readings for gold in golds)
        value, reading = max(scored, key=_first, default=(0.0, ""))
        exact = next((reading for reading in readings for gold in golds if _same(reading, gold)), None)
        return Judgement(generation.id, self.name, exact is not None, exact or reading, value=value)


def _same(reading: str, gold: str) -> bool:
    """Whether they are equal. "Paris?" is not Paris; a title that asks is one with its mark or without."""
    asked = "?" in reading[len(reading.rstrip("?!. \"'”’")) :] and "?" not in gold and not _QUESTION.match(gold)
    return normalise(reading) == normalise(gold) and not asked


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
    """The readings of an answer's short answer, the shortest first; one that is put as a question ends with its mark.

    What is doubted right afterwards is none.
    """
    bold, after = list(re.finditer(r"\*\*(.+?)\*\*", answer)), ""
    if box := boxed(answer):
        phrase, after = box, answer.rpartition(box)[2]
    elif phrases := stated(answer):
        phrase = phrases[-1]
    elif len(bold) == 1 and not denied(answer, *bold[0].span()):
        phrase, after = bold[0][1], answer[bold[0].end() :]
    else:
        phrase = answer.strip()
    marks = list(_ENDS.finditer(phrase, 0, LONGEST))
    items = [item.split() for item in _ENDS.split(phrase[:LONGEST]) if item.strip()]
    listed = len(items) > (2 if all(mark[0][0] in ".!?" for mark in marks) else 1)
    if listed and max(map(len, items)) <= _LONGEST_ITEM:
        return [phrase]
    ends = (mark.start() for mark in marks if not _AGAIN.match(phrase, mark.start(), mark.start() + 40))
    said = [*((phrase[:end], phrase[end : end + _READ_AFTER]) for end in ends), (phrase, after[:_READ_AFTER])]
    kept = (text + ("?" if _ASKED.match(rest) else "") for text, rest in said if not _DOUBTED.match(rest))
    return [*dict.fromkeys(kept)]
