"""Prompts that are the same or nearly the same: decontamination, and near-duplicates in a training set.

`contaminated` finds training prompts that are also in a benchmark:

- exact: the same characters
- normalised: the same words in the same order, without case, punctuation and Unicode form
- similar: prompts that a reader would call the same (`Lookalikes`): disguised letters, typing errors, one or two words
  exchanged, another order, or one prompt inside the other, in any language
- ngram: `ngram` consecutive words in common (STAR-1 used 8). This also matches parts of prompts and stock phrases of
  maths problems. Short prompts, and languages without spaces, have too few words for it

`Distinct` finds prompts that differ from another one only in a slot. The similarity is the longest common subsequence
of the normalised words divided by the longer prompt's length: 1.0 for the same sentence, and 5/6 for "What is the
capital of France?" and "What is the capital of Spain?".

`Lookalikes` gives each text a plain spelling: Unicode forms, look-alike letters of other alphabets, digits written for
letters and accents are folded, invisible characters dropped. Chinese and Japanese are split into characters; Korean,
whose words carry endings, and scripts without spaces (Thai and its neighbours) into overlapping runs. A word weighs
sqrt(log(texts / texts with the word)), so that what most questions share counts little, and a mistyped word is still
found. Two texts match if they share enough weight in any order, or if nearly all of the shorter one's weight is close
together in the longer one. Texts with different numbers do not match. The thresholds were chosen on OR-Bench, CoCoNot,
STAR-1 and NQ-open (`scripts/measure_decontamination.py --choose`). Reads and writes no file.
"""

import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

How = Literal["exact", "normalised", "similar", "ngram"]
DEFAULT: tuple[How, ...] = ("exact", "normalised", "similar")
Words = tuple[str, ...]

ALIKE = 0.6  # of `Lookalikes`: share of two texts' joint weight in common (Dice) if they are the same prompt
INSIDE = 0.8  # of `Lookalikes`: share of the shorter text's weight in a passage of the longer one that contains it

_WORD = re.compile(r"\w+(?:'\w+)*")


def words(text: str) -> Words:
    """Lower-cased words of a text after NFKC normalisation, without punctuation; both apostrophes are one."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("’", "'")))


_ROUNDING = 1e-6  # of a score, relative: 1 - 1/3 is a little less than 2/3


class Distinct:
    """Keeps rows that are not near-duplicates of a kept row of the same kind, also across calls.

    Memory grows with the number of kept rows, time with its square.
    """

    def __init__(self, threshold: float) -> None:
        self._least = threshold * (1 - _ROUNDING)
        self._numbers: dict[str, int] = {}  # of words
        self._kept: dict[str, tuple[list[str], list[str | list[int]]]] = {}  # kind -> ids, and texts as they are spelt

    def filter(
        self, rows: Iterable[tuple[str, str, Words]], amount: int | None
    ) -> tuple[list[str], list[tuple[str, str, float]]]:
        """The first `amount` distinct ids of (id, kind, words) rows (None: all), and the skipped near-duplicates.

        A near-duplicate is (id, kept id, similarity).
        """
        from rapidfuzz import process
        from rapidfuzz.distance import LCSseq

        kept: list[str] = []
        passed: list[tuple[str, str, float]] = []
        for name, kind, text in rows:
            if len(kept) == amount:
                break
            ids, texts = self._kept.setdefault(kind, ([], []))
            spelt = self._spelt(text)
            near = process.extractOne(spelt, texts, scorer=LCSseq.normalized_similarity, score_cutoff=self._least)
            if near:
                _, similarity, place = near
                passed.append((name, ids[place], similarity))
            else:
                kept.append(name)
                ids.append(name)
                texts.append(spelt)
        return kept, passed

    def _spelt(self, text: Words) -> str | list[int]:
        """A text with a character for each word, which the scorer compares fastest; it takes numbers as characters."""
        numbers = [self._numbers.setdefault(word, len(self._numbers)) for word in text]
        return "".join(map(chr, numbers)) if max(numbers, default=0) <= sys.maxunicode else numbers


_FEW = 1000  # texts; with fewer, word frequencies are too uncertain
_SHORTEST = 3  # fewest words of a text that is searched for inside others
_LOOSE = 5  # words from which a passage may be half as long again as the text it contains
_COMMON = 0.1  # share of texts from which a run of letters is too common to suggest a pair, unless texts are few
_SUGGESTS = 0.35, 0.5  # shared weight of letter runs (alike, inside) from which a pair is compared
_LOOKALIKE_BLOCK = 512  # rows compared at once: against 12,000 prompts their scores take up to 50 MB

_LETTERS = str.maketrans(
    "АВСЕНІЈКМОРЅТХУԚԜавсеһіјкмнорѕтхуԁԛԝѵӏпгΑΒΕΖΗΙΚΜΝΟΡΤΥΧαβγεηικνορτυχωıɑɡօո",
    "abcehijkmopstxyqwabcehijkmhopstxydqwvlnrabezhikmnoptyxabyenikvoptuxwiagon",
)  # look-alikes, before case is folded: a Greek capital Eta is an H, and a small one an n
_DIGITS = str.maketrans("0134578@$!|l", "oieastbasiii")  # written for letters; 1 and ! are l as well, so that l is i
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u3164\ufe00-\ufe0f'’`]")  # and apostrophes: "dont" is "don't"
_THAI, _HAN, _HANGUL = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff", "\u3005-\u30ff\u3400-\u9fff", "\uac00-\ud7af"
_UNSPACED = _THAI + _HAN + _HANGUL
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_RUNS = re.compile(rf"[{_UNSPACED}]+|(?:(?![{_UNSPACED}])[\w@$!|])+")


class Lookalike(NamedTuple):
    """Indices of a row and a prompt that match; `passage` is the part of the longer text that contains the shorter."""

    row: int
    prompt: int
    similarity: float
    passage: str


class Lookalikes:
    """Finds the rows that are the same as a benchmark's prompt, contain one, or are inside one."""

    def __init__(self, rows: Sequence[str]) -> None:
        self._rows = rows
        self._letter_runs: dict[str, int] = {}
        self._of_word: dict[str, list[int]] = {}
        self._words = [_plain_words(text) for text in rows]
        self._matrix = self._counted(self._words)

    def find(self, prompts: Sequence[str]) -> Iterator[Lookalike]:
        """The matching pairs. Word frequencies are counted over the rows and these prompts.

        `similarity` is the share of the shorter text's weight in the passage.
        """
        theirs = [_plain_words(text) for text in prompts]
        counts = Counter(word for words in (*self._words, *theirs) for word in set(words))
        texts = max(len(self._words) + len(theirs), _FEW) + 1
        weights = {word: math.sqrt(math.log(texts / min(count, texts - 1))) for word, count in counts.items()}
        for i, j in self._suggested(self._counted(theirs)):
            swapped = len(self._words[i]) > len(theirs[j])
            short, long = (theirs[j], self._words[i]) if swapped else (self._words[i], theirs[j])
            if found := _same(short, long, weights):
                similarity, first, last = found
                yield Lookalike(i, j, similarity, _passage((self._rows[i] if swapped else prompts[j]), first, last))

    def _counted(self, texts: Sequence[Sequence[str]]) -> Any:
        """Which runs of four letters each text has (texts x runs, sparse): most survive a typing error."""
        import numpy as np
        from scipy import sparse

        runs = [
            sorted({run for word in set(words) for run in self._of_word.get(word) or self._four(word)})
            for words in texts
        ]
        columns = np.fromiter((run for own in runs for run in own), np.int32)
        starts = np.cumsum([0, *map(len, runs)])
        return sparse.csr_matrix(
            (np.ones(len(columns), np.float32), columns, starts), (len(texts), len(self._letter_runs))
        )

    def _four(self, word: str) -> list[int]:
        """The numbers of a word's runs of four letters, with the blanks around it."""
        padded = word if _unspaced(word) else f" {word} "
        runs = [padded[i : i + 4] for i in range(max(1, len(padded) - 3))]
        self._of_word[word] = [self._letter_runs.setdefault(run, len(self._letter_runs)) for run in runs]
        return self._of_word[word]

    def _suggested(self, theirs: Any) -> Iterator[tuple[int, int]]:
        """Pairs (row, prompt) with enough uncommon letter runs in common to be compared."""
        import numpy as np

        rows = self._matrix.copy()
        rows.resize((rows.shape[0], len(self._letter_runs)))
        texts = rows.shape[0] + theirs.shape[0]
        counts = rows.getnnz(axis=0) + theirs.getnnz(axis=0)
        weight = np.log((texts + 1) / np.maximum(counts, 1)).astype(np.float32)
        weight[counts > max(_COMMON * texts, 20)] = 0
        mine, its = rows @ weight, theirs @ weight
        rows.data *= weight[rows.indices]
        rows.eliminate_zeros()
        columns = theirs.T.tocsr()
        alike, inside = _SUGGESTS
        for start in range(0, rows.shape[0], _LOOKALIKE_BLOCK):
            shared = (rows[start : start + _LOOKALIKE_BLOCK] @ columns).tocoo()
            left, right = mine[start + shared.row], its[shared.col]
            near = shared.data >= np.minimum(inside * np.minimum(left, right), alike * (left + right) / 2)
            yield from zip((start + shared.row[near]).tolist(), shared.col[near].tolist(), strict=True)


def _plain_words(text: str) -> list[str]:
    return [word for chunk in text.split() for word in _plain(chunk)]


@lru_cache(maxsize=200_000)
def _plain(chunk: str) -> tuple[str, ...]:
    """The words of a text without blanks, in plain spelling."""
    marked = unicodedata.normalize("NFKD", _INVISIBLE.sub("", chunk))
    bare = "".join(c for c in marked if unicodedata.category(c) != "Cf" and not _decorates(unicodedata.combining(c)))
    words: list[str] = []
    for run in _RUNS.findall(unicodedata.normalize("NFC", bare).translate(_LETTERS).casefold()):
        if _unspaced(run):
            size = 3 if run[0] < "\u3000" else 1 if run[0] < "\uac00" else 2
            words += [run[start : start + size] for start in range(max(1, len(run) - size + 1))]
        else:
            word = run.strip("!|")
            words.append(re.sub(r"\W", "", word.translate(_DIGITS) if re.search(r"[^\W\d_]", word) else word))
    return tuple(filter(None, words))


def _unspaced(word: str) -> bool:
    return _IS_UNSPACED.match(word) is not None


def _decorates(combining: int) -> bool:
    """Whether a mark of this class decorates a letter; vowels of Thai and Indic scripts have other classes."""
    return combining == 1 or 10 <= combining <= 36 or combining >= 200


def _passage(text: str, first: int, last: int) -> str:
    """The part of a text from word number `first` to `last`, up to the blanks around it."""
    chunks, passed = [], 0
    for chunk in text.split():
        count = len(_plain(chunk))
        if passed + count > first and passed <= last:
            chunks.append(chunk)
        passed += count
    return " ".join(chunks)


def _same(short: Sequence[str], long: Sequence[str], weights: Mapping[str, float]) -> tuple[float, int, int] | None:
    """(share of the shorter text's weight, first word, last word) of the best passage, or None if the texts differ."""
    wanted = Counter(short)
    alias = _mistyped(wanted, long)
    found = [alias.get(word) for word in long]
    of_short, of_long = (sum(weights[word] for word in words) for words in (short, long))
    common = sum(weights[word] * number for word, number in (wanted & Counter(filter(None, found))).items())
    size = min(len(long), len(short) + (len(short) // 2 if len(short) >= _LOOSE else 0))
    best, last = _best_window(found, size, wanted, weights)
    if 2 * common >= ALIKE * (of_short + of_long):
        passage, share = range(len(long)), common / of_short
    elif best >= INSIDE * of_short and len(short) >= _SHORTEST:
        passage, share = range(max(0, last - size + 1), last + 1), best / of_short
        passage = passage[next(at for at, place in enumerate(passage) if found[place]) :]
    else:
        return None
    other_number = any(long[place].isdigit() and long[place] not in wanted for place in passage)
    if other_number and any(word.isdigit() and word not in long for word in wanted):
        return None
    return share, passage[0], passage[-1]


def _mistyped(wanted: Mapping[str, int], long: Sequence[str]) -> dict[str, str]:
    """The longer text's words -> the shorter one's, equal or one typing error away (two in long words)."""
    from rapidfuzz import process
    from rapidfuzz.distance import OSA

    there = set(long)
    alias = {word: word for word in there if word in wanted}
    missing = [word for word in wanted if word not in there and _may_be_mistyped(word)]
    rest = sorted(word for word in there if word not in wanted and _may_be_mistyped(word))
    if missing and rest:
        distances: Any = process.cdist(missing, rest, scorer=OSA.distance, score_cutoff=2)
        for i, j in zip(*(distances <= 2).nonzero(), strict=True):
            if distances[i, j] == 1 or min(len(missing[i]), len(rest[j])) >= 8:
                alias.setdefault(rest[j], missing[i])
    return alias


def _may_be_mistyped(word: str) -> bool:
    return len(word) >= 4 and not word.isdigit() and not _unspaced(word)


def _best_window(
    found: Sequence[str | None], size: int, wanted: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[float, int]:
    """(the most weight in `size` consecutive words, none counted more often than wanted; index of the last word)."""
    inside: Counter[str] = Counter()
    weight, best, last = 0.0, 0.0, 0
    for place, word in enumerate(found):
        if word:
            inside[word] += 1
            weight += weights[word] * (inside[word] <= wanted[word])
        if place >= size and (gone := found[place - size]):
            weight -= weights[gone] * (inside[gone] <= wanted[gone])
            inside[gone] -= 1
        if weight > best + 1e-9:
            best, last = weight, place
    return best, last


@dataclass(frozen=True)
class Match:
    """A training row (`id`) and its strongest match in a benchmark; `row` is the match's row number, from 1.

    `similarity` is the share of the shorter prompt's weight that was found; 1 if `how` is not "similar". `prompt` is
    the benchmark's prompt. `passage` is the matching part of the longer prompt, or the matching consecutive words.
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
    """The matches of (id, prompt) rows with the prompts of each benchmark by name, in the order of rows and benchmarks.

    `ways` are the kinds of match to look for, `ngram` the number of words of an "ngram" match.
    """
    if not ways or not against:
        return []
    texts = [text for _, text in rows]
    spoken = [words(text) for text in texts]
    lookalikes = Lookalikes(texts) if "similar" in ways else None
    found: list[tuple[int, Match]] = []
    for name, prompts in against.items():
        numbered = [*enumerate(prompts)][::-1]  # from the last one, so that the first of equal ones is found
        said = [(number, words(prompt)) for number, prompt in numbered]
        exact = {prompt: number for number, prompt in numbered if "exact" in ways}
        normalised = {own: number for number, own in said if own and "normalised" in ways}
        runs = {run: number for number, own in said if "ngram" in ways for run in _runs(own, ngram)}
        similar = lookalikes.find(prompts) if lookalikes else ()
        alike = {it.row: it for it in sorted(similar, key=lambda it: (it.similarity, len(it.passage), -it.prompt))}
        for at, (row, text) in enumerate(rows):
            how: How
            similarity, passage = 1.0, text
            shared = [run for run in _runs(spoken[at], ngram) if run in runs] if runs else []
            if text in exact:
                how, number = "exact", exact[text]
            elif spoken[at] in normalised:
                how, number = "normalised", normalised[spoken[at]]
            elif at in alike:
                _, number, similarity, passage = alike[at]
                how, similarity = "similar", round(similarity, 3)
            elif shared:
                run = min(shared, key=runs.__getitem__)
                how, number, passage = "ngram", runs[run], " ".join(run)
            else:
                continue
            found.append((at, Match(row, name, number + 1, how, similarity, prompts[number], passage)))
    return [match for _, match in sorted(found, key=lambda it: it[0])]


def _runs(spoken: Words, length: int) -> list[Words]:
    return [spoken[start : start + length] for start in range(len(spoken) - length + 1)]
