"""Training prompts that are also in a benchmark: the same text, the same words, or what a reader would call the same.

- exact: the prompts are the same characters
- normalised: the same words in the same order; case, punctuation and Unicode form aside
- similar: the same prompt with letters disguised, words mistyped, one or two words exchanged or the order changed, or
  the whole of one inside the other, in any language
- ngram: `ngram` words in a row in common (STAR-1 used 8). It also finds parts of prompts, and the stock phrases of
  maths problems. Shorter prompts, and languages written without spaces, have too few words for it.

Reads and writes no file.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from alttrain.dataset.duplicates import Words, words
from alttrain.dataset.lookalikes import Lookalike, Lookalikes

How = Literal["exact", "normalised", "similar", "ngram"]
DEFAULT: tuple[How, ...] = ("exact", "normalised", "similar")


@dataclass(frozen=True)
class Match:
    """A training row and the row of a benchmark (counted from 1) that it meets in the strongest way.

    `similarity` is the share of the shorter prompt's weight that was found, and 1 where `how` is not similar. `prompt`
    is the benchmark's, and `passage` what matched: the part of the longer prompt, or the words in a row.
    """

    id: str
    benchmark: str
    row: int
    how: How
    similarity: float
    prompt: str
    passage: str


def contaminated(
    rows: Sequence[tuple[str, str]], against: Mapping[str, Sequence[str]], ways: Collection[How], ngram: int = 8
) -> list[Match]:
    """The matches of (id, prompt) rows with each benchmark's prompts, in the order of rows and benchmarks."""
    if not ways:
        return []
    texts = [prompt for _, prompt in rows]
    spoken = [words(text) for text in texts] if {"normalised", "ngram"} & set(ways) else [()] * len(rows)
    alike = _best(texts, against) if "similar" in ways else {}
    indexes = {name: _Index(prompts, ways, ngram) for name, prompts in against.items()}
    found = []
    for number, (row, text) in enumerate(rows):
        for name, index in indexes.items():
            if match := index.find(text, spoken[number], alike.get((number, name))):
                place, how, similarity, passage = match
                found.append(Match(row, name, place, how, similarity, against[name][place - 1], passage))
    return found


def _best(texts: Sequence[str], against: Mapping[str, Sequence[str]]) -> dict[tuple[int, str], Lookalike]:
    """For each text and benchmark the most similar of its prompts; of equals the one with more text in common."""
    rows, best = Lookalikes(texts), {}
    for name, prompts in against.items():
        for one in sorted(rows.find(prompts), key=lambda it: (it.similarity, len(it.passage), -it.prompt)):
            best[one.row, name] = one
    return best


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

    def find(self, prompt: str, spoken: Words, alike: Lookalike | None) -> tuple[int, How, float, str] | None:
        if prompt in self._exact:
            return self._exact[prompt], "exact", 1.0, prompt
        if spoken in self._normalised:
            return self._normalised[spoken], "normalised", 1.0, prompt
        if alike:
            return alike.prompt + 1, "similar", round(alike.similarity, 3), alike.passage
        if self._runs:
            runs = [(self._runs[run], run) for run in _runs(spoken, self._ngram) if run in self._runs]
            if runs:
                number, run = min(runs, key=lambda it: it[0])
                return number, "ngram", 1.0, " ".join(run)
        return None


def _runs(spoken: Words, length: int) -> list[Words]:
    return [spoken[start : start + length] for start in range(len(spoken) - length + 1)]
