"""Near-duplicate prompts: one sentence with a slot changed, or the same sentence with different punctuation.

Similarity of two prompts is the longest common subsequence of their normalised words over the longer one's length:
1.0 is the same sentence, and "What is the capital of France?" against "What is the capital of Spain?" is 5/6. The
measure is symmetric and independent of order in the file. Reads and writes no file.
"""

import re
import unicodedata
from collections.abc import Sequence

from rapidfuzz import process
from rapidfuzz.distance import LCSseq

NEAR_DUPLICATE = 0.65
"""Similarity from which two prompts count as the same sentence with a slot changed."""

_ROUNDING = 1e-6  # the scores are float32, and 1 - 1/3 is a little less than 2/3
_SLACK = 0.01  # the scorer's own cut-off is not exact either
_WORD = re.compile(r"\w+(?:'\w+)*")


def words(text: str) -> tuple[str, ...]:
    """Lower-cased words of a text after NFKC normalisation, without punctuation; both apostrophes are one."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("’", "'")))


def near_duplicates(
    prompts: Sequence[str], against: Sequence[str] | None = None, threshold: float = NEAR_DUPLICATE
) -> list[tuple[int, int, float]]:
    """Pairs (i, j, similarity) at or above `threshold`.

    Without `against` the pairs are inside `prompts` with i < j; with it, i indexes `prompts` and j `against`.
    """
    left = [words(prompt) for prompt in prompts]
    right = left if against is None else [words(prompt) for prompt in against]
    scores = process.cdist(left, right, scorer=LCSseq.normalized_similarity, score_cutoff=threshold - _SLACK)
    found = zip(*scores.nonzero(), strict=True)
    return [
        (int(i), int(j), float(scores[i, j]))
        for i, j in found
        if scores[i, j] >= threshold - _ROUNDING and (against is not None or i < j)
    ]
