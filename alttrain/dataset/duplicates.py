"""Near-duplicate prompts: one sentence with a slot changed, or the same sentence with different punctuation.

Similarity of two prompts is the longest common subsequence of their normalised words over the longer one's length:
1.0 is the same sentence, and "What is the capital of France?" against "What is the capital of Spain?" is 5/6. The
measure is symmetric and independent of order in the file. Reads and writes no file.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

NEAR_DUPLICATE = 0.65
"""Similarity from which two prompts count as the same sentence with a slot changed."""

_ROUNDING = 1e-6  # the scores are float32, and 1 - 1/3 is a little less than 2/3
_SLACK = 0.01  # the scorer's own cut-off is not exact either
_BLOCK = 256  # rows compared at once: the scores of a block against 40,000 rows take 40 MB
_SURROGATES = range(0xD800, 0xE000)  # the code points that are no characters
_WORD = re.compile(r"\w+(?:'\w+)*")

Words = tuple[str, ...]


def words(text: str) -> Words:
    """Lower-cased words of a text after NFKC normalisation, without punctuation; both apostrophes are one."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("’", "'")))


def near_duplicates(
    prompts: Sequence[str], against: Sequence[str] | None = None, threshold: float = NEAR_DUPLICATE
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, similarity) at or above `threshold`.

    Without `against` the pairs are inside `prompts` with i < j; with it, i indexes `prompts` and j `against`.
    """
    vocabulary = _Vocabulary()
    left = [vocabulary.spell(words(prompt)) for prompt in prompts]
    right = left if against is None else [vocabulary.spell(words(prompt)) for prompt in against]
    found = []
    for start in range(0, len(left), _BLOCK):
        scores = _scores(left[start : start + _BLOCK], right, threshold)
        pairs = [(start + int(row), int(column)) for row, column in zip(*scores.nonzero(), strict=True)]
        found += [(i, j, float(scores[i - start, j])) for i, j in pairs if against is not None or i < j]
    return found


class _Vocabulary:
    """Words as single characters, so that a text of words is a short string, the fastest thing to compare."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def spell(self, text: Words) -> str:
        return "".join([self._letters.get(word) or self._add(word) for word in text])

    def _add(self, word: str) -> str:
        number = len(self._letters)
        letter = chr(number if number < _SURROGATES.start else number + len(_SURROGATES))
        self._letters[word] = letter
        return letter


class Distinct:
    """Keeps rows that are no near-duplicate of one of the same kind kept before.

    Compared in blocks, so that memory grows with the rows kept and not with their square; time does grow with it.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._vocabulary = _Vocabulary()
        self._kept: list[tuple[str, str, str]] = []  # id, kind, spelling

    def filter(
        self, rows: Sequence[tuple[str, str, Words]], amount: int | None
    ) -> tuple[list[str], list[tuple[str, str, float]]]:
        """Of (id, kind, words) the first `amount` distinct ids (None: all), and (id, kept id, similarity) of others."""
        import numpy as np

        kept: list[str] = []
        passed: list[tuple[str, str, float]] = []
        for start in range(0, len(rows), _BLOCK):
            block = [(name, kind, self._vocabulary.spell(text)) for name, kind, text in rows[start : start + _BLOCK]]
            columns = [*self._kept, *block]
            scores = _scores([text for _, _, text in block], [text for _, _, text in columns], self._threshold)
            kinds = np.array([kind for _, kind, _ in columns])
            alive = np.arange(len(columns)) < len(self._kept)
            first = len(self._kept)
            for index, row in enumerate(block):
                if len(kept) == amount:
                    return kept, passed
                near = np.where(alive & (kinds == row[1]), scores[index], 0)
                best = int(near.argmax())
                if near[best]:
                    passed.append((row[0], columns[best][0], float(near[best])))
                    continue
                alive[first + index] = True
                kept.append(row[0])
                self._kept.append(row)
        return kept, passed


def _scores(left: Sequence[str], right: Sequence[str], threshold: float) -> Any:
    """Similarities as a matrix, zero where they are below the threshold."""
    from rapidfuzz import process
    from rapidfuzz.distance import LCSseq

    cutoff = max(threshold - _SLACK, 0)
    scores = process.cdist(left, right, scorer=LCSseq.normalized_similarity, score_cutoff=cutoff, workers=-1)
    scores[scores < threshold - _ROUNDING] = 0
    return scores
