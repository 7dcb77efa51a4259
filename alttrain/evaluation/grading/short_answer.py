"""Graders that compare texts: short factual answers, exact match with F1, and ROUGE of summaries.

`ShortAnswer`: the answer contains a gold answer as whole words and numbers. A text that the answer denies or leaves
open ("it is not Paris", "Paris or London") does not count, nor does an item of an answer that is only a list. Names of
up to three letters ("May", "US") must keep their capital letter, since they are words too.

`ExactMatch`: the short answer equals a gold answer under SQuAD's normalisation (Rajpurkar et al., 2016), as in NQ-open.
The short answer is, in this order: a box, the text after the last "the answer is", the only text in bold, the whole
answer. In a phrase of several sentences, the first sentence, the first two and so on each count, up to `LONGEST`
characters, unless the following text revokes or doubts them, or the sentences are only a list of answers. A question
("Paris?") is not an exact match, unless the gold answer is a question or the following text confirms it.
"""

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from alttrain.evaluation.grading.final_answer import FONT, LONGEST, Grader, is_denied, last_box, stated_answers
from alttrain.records import Generation, Judgement

_TOKEN = re.compile(r"(?<![\w.,])-?\d[\d,]*(?:\.\d+)?|\w+(?:'\w+)*")
_HEDGED = re.compile(
    r" or (?=\w)|/(?=\w)|[.!?] (?:or\b|no[,.!])|[,.;]? \(?(?:or )?(?:maybe|perhaps|possibly|alternatively|or else)\b",
    re.I,
)
_HEDGED_BEFORE = re.compile(r"(?<!,) or $|\w/$|\b(?:either|one of|between)(?: the)? $", re.I)
_BULLET = re.compile(r"^\s*(?:\d{1,2}[.)]\s|[-*•])")
_NUMBERS = re.compile(r"(?:-?\d+(?:\.\d+)?[,;.]?(?:\s+|$)){2,}")
_LONGEST_LISTED = 4  # maximum number of words of an item in an answer that is only a list (`ShortAnswer`)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_ENDS = re.compile(r"[.!?]\s+(?=[^\sa-z])|;\s|\n")
_AGAIN = re.compile(r"[\s.!?;]*(?:or|no|not|nope|maybe|perhaps|possibly|alternatively|just kidding)\b", re.I)
_CLOSES = r"[\s.,!;*_)}\]$\\\"'”’-]*"
_DOUBTED = re.compile(  # a sentence that only doubts the one before it: "I doubt it.", not "I doubt it is London."
    rf"(?:{_CLOSES}\?)?{_CLOSES}(?:(?:but|though|although|well|hmm)\b,? )?"
    r"(?:I (?:\w+ly )?(?:very much )?doubt (?:it|that|this)|I (?:do not|don['’]t) (?:think|believe) (?:so|it|that)"
    r"|(?:I am |I['’]m )?not (?:\w+ )?(?:sure|certain|convinced)(?: about (?:it|that|this))?"
    r"|(?:(?:it is|it['’]s|that is|that['’]s) (?:(?!not)\w+ )?)(?:doubtful|unlikely|wrong|incorrect|false)"
    r"|hardly|unlikely|doubtful|who knows)\s*(?:[.,!?;…]|$)",
    re.I,
)
_ASKED = re.compile(
    rf"{_CLOSES}\?(?!\W*(?:yes|yep|indeed|correct|right|of course|certainly|definitely|absolutely)\b)", re.I
)
_QUESTION = re.compile(r"(?:wh\w+|how|is|are|was|were|do|does|did|can|could|will|would|shall|should|have|has)\b", re.I)
_READ_AFTER = 80  # characters searched after a short answer for a question mark or a doubt
_LONGEST_ITEM = 3  # maximum number of words of an item in an answer that is only a list (`ExactMatch`)


def tokens(text: str) -> tuple[str, ...]:
    """Lower-cased words and whole numbers of a text. "100,000" is one token, without the comma; so is "7.5"."""
    return tuple(token.lower().replace(",", "") for token in _TOKEN.findall(_folded(text)))


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).replace("’", "'").replace("−", "-").split())


def _without_latex(text: str) -> str:
    r"""A text without LaTeX's fonts and spaces: \boxed{5\,\text{feet}} holds two words."""
    text = re.sub(r"(?<=\d)\\[,;: ](?=\d{3}(?!\d))", ",", text)  # thousands
    return re.sub(r"\\[,;: ]", " ", re.sub(FONT, "", text))


@dataclass(frozen=True)
class ShortAnswer(Grader):
    """Right if the answer contains a gold answer as whole words and numbers, ignoring case and punctuation."""

    name: str = "short_answer"

    def golds_of(self, generation: Generation) -> list[str]:
        return [gold for gold in generation.gold if tokens(gold)]

    def grade(self, generation: Generation, golds: Sequence[str]) -> Judgement:
        answer = _without_latex(generation.answer)
        text, items = _folded(answer), _items(answer)
        contained = next((gold for gold in golds if _holds(text, gold) and tokens(gold) not in items), None)
        return Judgement(generation.id, self.name, contained is not None, contained or "")


def _items(answer: str) -> list[tuple[str, ...]]:
    """The items of an answer that is only a list of possible answers; empty for any other answer.

    A list separated by commas has at least four items, since a place ("Los Angeles, California, USA") has fewer. A list
    separated by line breaks, semicolons, bars or sentences has at least three, a list of numbers or bullets two.
    """
    splits: list[tuple[list[str], int]] = [(re.split(r"[,;|\n]", answer), 4), (re.split(r"[;|\n]|[.!?]\s", answer), 3)]
    if _NUMBERS.fullmatch(answer):
        splits = [(answer.split(), 2)]
    elif all(map(_BULLET.match, filter(str.strip, answer.splitlines()))):
        splits = [(answer.splitlines(), 2)]
    for parts, fewest in splits:
        items = [words for part in parts if (words := tokens(_BULLET.sub("", part)))]
        if len(items) >= fewest and max(map(len, items)) <= _LONGEST_LISTED:
            return items
    return []


def _holds(text: str, gold: str) -> bool:
    """Whether a text contains a gold answer and does not deny it."""
    gold_words, keeps_capital = tokens(gold), len(gold) <= 3 and gold.isalpha() and gold[0].isupper()
    words, spans = tokens(text), [match.span() for match in _TOKEN.finditer(text)]
    for first in range(len(words) - len(gold_words) + 1):
        if words[first : first + len(gold_words)] == gold_words:
            start, end = spans[first][0], spans[first + len(gold_words) - 1][1]
            hedged = _HEDGED.match(text, end) or _HEDGED_BEFORE.search(text, max(0, start - 15), start)
            if not hedged and not is_denied(text, start, end) and not (keeps_capital and text[start].islower()):
                return True
    return False


@dataclass(frozen=True)
class ExactMatch(Grader):
    """Right if the short answer equals one of the gold answers. `value` is the best F1 over their words."""

    name: str = "exact_match"

    missing = (False, 0.0)

    def grade(self, generation: Generation, golds: Sequence[str]) -> Judgement:
        readings = short_answers(_without_latex(generation.answer))
        scored = ((f1(reading, gold), reading) for reading in readings for gold in golds)
        value, reading = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
        exact = next((reading for reading in readings for gold in golds if _same(reading, gold)), None)
        return Judgement(generation.id, self.name, exact is not None, exact or reading, value=value)


def _same(reading: str, gold: str) -> bool:
    """Whether both are equal. "Paris?" does not equal "Paris"; a title that is a question may omit its mark."""
    is_question = "?" in reading[len(reading.rstrip("?!. \"'”’")) :] and "?" not in gold and not _QUESTION.match(gold)
    return normalise(reading) == normalise(gold) and not is_question


def normalise(text: str) -> str:
    """Lower case without punctuation, articles and extra spaces; a text that has nothing else keeps them."""
    folded = _PUNCTUATION.sub("", unicodedata.normalize("NFKC", text).lower())
    return " ".join(_ARTICLES.sub(" ", folded).split()) or folded.strip() or text.strip().rstrip(".")


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of the precision and recall of the normalised words, repeats counted."""
    answer_words, gold_words = normalise(answer).split(), normalise(gold).split()
    shared = (Counter(answer_words) & Counter(gold_words)).total()
    return 2 * shared / (len(answer_words) + len(gold_words)) if shared else 0.0


def short_answers(answer: str) -> list[str]:
    """The possible short answers in an answer, shortest first. One that is asked as a question ends with "?".

    A text that is doubted right afterwards is left out.
    """
    bold, after = list(re.finditer(r"\*\*(.+?)\*\*", answer)), ""
    if (box := last_box(answer)) and box[0]:
        phrase, after = box[0], answer[box[1] :]
    elif phrases := stated_answers(answer):
        phrase = phrases[-1]
    elif len(bold) == 1 and not is_denied(answer, *bold[0].span()):
        phrase, after = bold[0][1], answer[bold[0].end() :]
    else:
        phrase = answer.strip()
    marks = list(_ENDS.finditer(phrase, 0, LONGEST))
    items = [item.split() for item in _ENDS.split(phrase[:LONGEST]) if item.strip()]
    listed = len(items) > (2 if all(mark[0][0] in ".!?" for mark in marks) else 1)
    if listed and max(map(len, items)) <= _LONGEST_ITEM:
        return [phrase]
    ends = (mark.start() for mark in marks if not _AGAIN.match(phrase, mark.start(), mark.start() + 40))
    readings = [*((phrase[:end], phrase[end : end + _READ_AFTER]) for end in ends), (phrase, after[:_READ_AFTER])]
    certain = (text + ("?" if _ASKED.match(tail) else "") for text, tail in readings if not _DOUBTED.match(tail))
    return [*dict.fromkeys(certain)]


@dataclass(frozen=True)
class Rouge(Grader):
    """ROUGE of a summary, by Google's rouge-score. `value` is the F measure with stemming against the best gold
    summary.

    English only, since the tokenizer knows just the letters a to z. The verdict is None. The time of the longest common
    subsequence grows with (words of the answer) x (words of the summary): about 3 s for 40,000 and 160 words.
    """

    kind: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"
    name: str = "rouge"

    missing = (None, 0.0)

    def grade(self, generation: Generation, golds: Sequence[str]) -> Judgement:
        value = max(float(_scorer(self.kind).score(gold, generation.answer)[self.kind].fmeasure) for gold in golds)
        return Judgement(generation.id, self.name, None, f"{self.kind} {value:.4f}", value=value)


@functools.cache
def _scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=True)
