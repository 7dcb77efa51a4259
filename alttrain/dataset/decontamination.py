"""Training prompts that also stand in a benchmark: the same text, the same words, or a long run of words in common.

- exact: the prompts are the same characters
- normalised: the same words in the same order; case, punctuation and Unicode form aside
- ngram: `ngram` words in a row in common (STAR-1 used 8). It finds a request inside a longer attack prompt, and also
  the stock phrases of maths problems. Shorter prompts, and languages written without spaces, have too few words for it.

Reads and writes no file.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from alttrain.dataset.duplicates import Words, words

How = Literal["exact", "normalised", "ngram"]


@dataclass(frozen=True)
class Match:
    """A training row and the first row of a benchmark (counted from 1) that it meets in the strongest way."""

    id: str
    benchmark: str
    row: int
    how: How


def contaminated(
    rows: Sequence[tuple[str, str, Words]], against: Mapping[str, Sequence[str]], ways: Collection[How], ngram: int = 8
) -> list[Match]:
    """The matches of (id, prompt, words) rows with each benchmark's prompts, in the order of rows and benchmarks."""
    indexes = {name: _Index(prompts, ways, ngram) for name, prompts in against.items()} if ways else {}
    found = ((row[0], name, index.find(row[1], row[2])) for row in rows for name, index in indexes.items())
    return [Match(name, benchmark, *hit) for name, benchmark, hit in found if hit]


class _Index:
    """Where a benchmark has a text, its words, and each of its runs of words."""

    def __init__(self, prompts: Sequence[str], ways: Collection[How], ngram: int) -> None:
        self._ngram = ngram
        self._exact: dict[str, int] = {}
        self._normalised: dict[Words, int] = {}
        self._runs: dict[Words, int] = {}
        for number, prompt in enumerate(prompts, 1):
            spoken = words(prompt) if {"normalised", "ngram"} & set(ways) else ()
            if "exact" in ways:
                self._exact.setdefault(prompt, number)
            if "normalised" in ways and spoken:
                self._normalised.setdefault(spoken, number)
            if "ngram" in ways:
                for run in _runs(spoken, ngram):
                    self._runs.setdefault(run, number)

    def find(self, prompt: str, spoken: Words) -> tuple[int, How] | None:
        if prompt in self._exact:
            return self._exact[prompt], "exact"
        if spoken in self._normalised:
            return self._normalised[spoken], "normalised"
        if self._runs:
            numbers = [self._runs[run] for run in _runs(spoken, self._ngram) if run in self._runs]
            if numbers:
                return min(numbers), "ngram"
        return None


def _runs(spoken: Words, length: int) -> list[Words]:
    return [spoken[start : start + length] for start in range(len(spoken) - length + 1)]
