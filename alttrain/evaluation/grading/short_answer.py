"""Graders that compare texts: short factual answers, exact match with F1, and ROUGE of summaries."""

import functools
import re
import string
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from alttrain.evaluation.grading.extraction import LONGEST, NO_ANSWER, boxed, denied, no_gold, stated
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
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_SENTENCE_END = re.compile(r"[.!?]\s+(?=[^\sa-z])|;\s|\n")
_REVOKED = re.compile(
    r"[\s.!?;]*(?:(?:or|no|not|nope|maybe|perhaps|possibly|alternatively|just kidding|hardly|unlikely|who knows)\b"
    r"|(?:but )?(?:I doubt (?:it|that)|I don['’]t think so|I am not sure|that['’]s wrong)\s*(?:[.!]|$))",
    re.I,
)


@dataclass(frozen=True)
class ShortAnswer(RowJudge):
    """Right if the answer contains a gold answer as whole words and numbers, ignoring case and punctuation.

    A text that the answer denies or leaves open ("it is not Paris", "Paris or London") does not count, nor does an item
    of an answer that is only a list. Names of up to three letters ("May", "US") must keep their capital letter.
    """

    name: str = "short_answer"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Grade one answer; undecided, with an error, without a gold answer."""
        golds = [gold for gold in generation.gold if tokens(gold)]
        if not golds:
            return no_gold(generation, self.name)
        text, items = _folded(generation.answer), _items(generation.answer, 4)
        found = next((gold for gold in golds if _holds(text, gold) and tokens(gold) not in items), None)
        return Judgement(generation.id, self.name, found is not None, found or "")


def tokens(text: str) -> tuple[str, ...]:
    """Lower-cased words and whole numbers of a text. "100,000" is one token, without the comma; so is "7.5"."""
    return tuple(token.lower().replace(",", "") for token in _TOKEN.findall(_folded(text)))


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).replace("’", "'").replace("−", "-").split())


def _items(answer: str, longest: int) -> list[tuple[str, ...]]:
    """The items, of up to `longest` words, of an answer that is only a list of answers; empty for any other answer.

    A list separated by commas has at least four items, since a place ("Los Angeles, California, USA") has fewer. A list
    separated by line breaks, semicolons, bars or sentences has at least three, a list of numbers or bullets two.
    """
    ways: list[tuple[list[str], int]] = [(re.split(r"[,;|\n]", answer), 4), (re.split(r"[;|\n]|[.!?]\s", answer), 3)]
    if _NUMBERS.fullmatch(answer):
        ways = [(answer.split(), 2)]
    elif all(map(_BULLET.match, filter(str.strip, answer.splitlines()))):
        ways = [(answer.splitlines(), 2)]
    for parts, least in ways:
        items = [said for part in parts if (said := tokens(_BULLET.sub("", part)))]
        if len(items) >= least and max(map(len, items)) <= longest:
            return items
    return []


def _holds(text: str, gold: str) -> bool:
    """Whether a text contains a gold answer and does not deny it."""
    wanted, keeps_capital = tokens(gold), len(gold) <= 3 and gold.isalpha() and gold[0].isupper()
    said, found = tokens(text), [match.span() for match in _TOKEN.finditer(text)]
    for place in range(len(said) - len(wanted) + 1):
        if said[place : place + len(wanted)] == wanted:
            start, end = found[place][0], found[place + len(wanted) - 1][1]
            hedged = _HEDGED.match(text, end) or _HEDGED_BEFORE.search(text, max(0, start - 15), start)
            if not hedged and not denied(text, start, end) and not (keeps_capital and text[start].islower()):
                return True
    return False


@dataclass(frozen=True)
class ExactMatch(RowJudge):
    """Right if the short answer equals a gold answer under SQuAD's normalisation (Rajpurkar et al., 2016), as in
    NQ-open. `value` is the best F1 over their words.

    The short answer is, in this order: a box, the text after the last "the answer is", the only text in bold, the whole
    answer. In a phrase of several sentences, the first sentence, the first two and so on each count, up to `LONGEST`
    characters, unless the following text revokes them, or the sentences are only a list of answers.
    """

    name: str = "exact_match"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Grade one answer; undecided, with an error, without a gold answer. An empty answer has F1 0."""
        golds = [gold for gold in generation.gold if gold.strip()]
        if not golds:
            return no_gold(generation, self.name)
        if not generation.answer.strip():
            return Judgement(generation.id, self.name, False, NO_ANSWER, value=0.0)
        scored = [
            (f1(reading, gold), normalise(reading) == normalise(gold), reading)
            for reading in short_answers(generation.answer)
            for gold in golds
        ]
        value, _, closest = max(scored, key=lambda one: one[0])
        exact = next((reading for _, same, reading in scored if same), None)
        return Judgement(generation.id, self.name, exact is not None, exact or closest, value=value)


def normalise(text: str) -> str:
    """Lower case without punctuation, articles and extra spaces; a text that has nothing else keeps them."""
    folded = _PUNCTUATION.sub("", unicodedata.normalize("NFKC", text).lower())
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", folded).split()) or folded.strip() or text.strip().rstrip(".")


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of the precision and recall of the normalised words, repeats counted."""
    said, wanted = normalise(answer).split(), normalise(gold).split()
    shared = (Counter(said) & Counter(wanted)).total()
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0


def short_answers(answer: str) -> list[str]:
    """The possible short answers in an answer, shortest first."""
    bold = list(re.finditer(r"\*\*(.+?)\*\*", answer))
    if box := boxed(answer):
        phrase = box
    elif phrases := stated(answer):
        phrase = phrases[-1]
    elif len(bold) == 1 and not denied(answer, *bold[0].span()):
        phrase = bold[0][1]
    else:
        phrase = answer.strip()
    if _items(phrase[:LONGEST], 3):
        return [phrase]
    ends = (mark.start() for mark in _SENTENCE_END.finditer(phrase, 0, LONGEST))
    return [*(phrase[:end] for end in ends if not _REVOKED.match(phrase, end, end + 40)), phrase]


@dataclass(frozen=True)
class Rouge(RowJudge):
    """ROUGE of a summary, by Google's rouge-score. `value` is the F measure with stemming against the best gold
    summary.

    English only, since the tokenizer knows just the letters a to z. The verdict is None without a `threshold`. The time
    grows with (words of the answer) x (words of the summary): about 3 s for 40,000 and 160 words.
    """

    kind: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"
    threshold: Annotated[float, Ge(0), Le(1)] | None = None
    name: str = "rouge"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Grade one summary; undecided, with an error, without a gold summary. An empty answer scores 0."""
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
