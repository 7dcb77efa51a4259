"""What the sentences of a thought say: what the user wants, that the request is harmful or harmless, what to do next.

A linear model (thought.tsv), trained on sentences labelled by people (scripts/train_thoughts.py), gives each sentence
five probabilities, which need not sum to 1. The time is linear in the length of the text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from alttrain.english.linear import LinearModel, ngrams, scaled_blocks
from alttrain.english.sentences import sentences

LETTERS = "UHSRG"  # the labels: understanding, harmful, safe (harmless), refusal, going on
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[^\w\s]")
_PLAIN = str.maketrans("’‘“”", "''\"\"")
_WORDS_READ, _WORDS_BESIDE = 60, 40
"""Words read of a sentence outside its quotations, and of its quotations and each neighbouring sentence."""
_NEGATIONS = "not no never nothing neither nor without hardly nobody none far anything cannot"
_NEGATES = frozenset(_NEGATIONS.split())
_NEGATED = 7  # number of words that a negation reaches
_SUPPOSES = frozenset(["if", "whether", "unless", "suppose", "assuming"])
_CONCEDES = frozenset(["although", "though", "while", "despite", "even"])
_TURNS = frozenset(["but", "however", "yet"])
_ENDS = frozenset([".", ",", ";", ":", "!", "?", "but", "however", "because", "since", "only"])


@dataclass(frozen=True)
class SentenceScores:
    """Probabilities of what the sentence text[start:end] says."""

    start: int
    end: int
    understanding: float  # what the user wants or says, or what the problem is
    harmful: float  # the request, or an answer to it, is harmful, illegal or against a policy
    harmless: float  # it is not
    refusal: float  # the model will not help, must decline, or only points elsewhere
    going_on: float  # the model will help, or starts to answer


@lru_cache(maxsize=64)  # several functions read the same thought
def score_sentences(text: str) -> tuple[SentenceScores, ...]:
    """Return what each sentence of a text says, in order."""
    return score_sentences_with(LinearModel.read(Path(__file__).with_name("thought.tsv")), text)


def score_sentences_with(model: LinearModel, text: str) -> tuple[SentenceScores, ...]:
    """Like `score_sentences`, with the given model."""
    spans = list(sentences(text))
    readings = map(model, features([text[start:end] for start, end in spans]))
    pairs = zip(spans, readings, strict=True)
    return tuple(SentenceScores(*span, *(probabilities[letter] for letter in LETTERS)) for span, probabilities in pairs)


def features(thought: Sequence[str]) -> Iterator[dict[str, float]]:
    """Yield the features of each sentence of a thought, given all its sentences.

    They are word n-grams; words marked by what modifies them (a negation, an "if", a concession, a "but"); the words of
    quotations, which are the user's; the sentence's position and length; and the words of its neighbours.
    """
    split = [_words(sentence) for sentence in thought]
    for index, (unquoted, quoted) in enumerate(split):
        following = len(split) - 1 - index
        words = unquoted[:_WORDS_READ]
        marked = _marked(words)
        bare = (f"{word[0]}{word.partition(':')[2]}" for word in marked if word[0] in "!:")
        before = split[index - 1][0][:_WORDS_BESIDE] if index else ["none"]
        after = split[index + 1][0][:_WORDS_BESIDE] if following else ["none"]
        yield scaled_blocks(
            [*ngrams(["^", *words, "$"], 2, 3), *(f"q:{word}" for word in quoted)],
            [*marked, *bare, *ngrams(marked, 2)],
            [f"at {min(index, 6)}", f"left {min(following, 3)}", f"long {min(7, len(unquoted).bit_length())}"],
            [f"p:{word}" for word in before],
            [f"n:{word}" for word in after],
        )


def _words(sentence: str) -> tuple[list[str], list[str]]:
    """Return (unquoted words, with a mark per quotation; words of closed quotations), lower-cased, numbers as 0."""
    parts = sentence.lower().translate(_PLAIN).split('"')
    if len(parts) % 2 == 0:  # the last quotation is not closed
        parts[-2:] = [" ".join(parts[-2:])]
    unquoted: list[str] = []
    quoted: list[str] = []
    for number, part in enumerate(parts):
        words = ["0" if word.isdigit() else word for word in _WORD.findall(part)]
        if number % 2:
            unquoted.append('"')
            quoted += words[: _WORDS_BESIDE - len(quoted)]
        else:
            unquoted += words
    return unquoted, quoted


def _marked(words: Sequence[str]) -> list[str]:
    """Return each word after signs for what precedes it: ! a negation, ~ an "if", ( a concession, > a "but"."""
    marked = []
    negated, supposed, conceded, turned = 0, False, False, False
    for before, word in pairwise(["", *words]):
        if word in _ENDS and (before, word) != ("anything", "but"):
            negated, supposed, conceded = 0, False, False
        turned = turned or word in _TURNS
        signs = "!" * (negated > 0) + "~" * supposed + "(" * conceded + ">" * turned
        marked.append(f"{signs}:{word}")
        negated -= 1
        if word in _NEGATES or word.endswith("n't"):
            negated = _NEGATED
        supposed = supposed or word in _SUPPOSES
        conceded = conceded or word in _CONCEDES
    return marked
