"""Prompts that are the same or nearly the same: decontamination, and near-duplicates in a training set.

`contaminated` finds training prompts that are also in a benchmark:

- exact: the same characters
- normalised: the same words in the same order, without case, punctuation and Unicode form
- similar: prompts that a reader would call the same (`Lookalikes`): disguised letters, typing errors, one or two words
  exchanged, another order, or one prompt inside the other, in any language
- ngram: `ngram` consecutive words in common (STAR-1 used 8). This also matches parts of prompts and stock phrases of
  maths problems. Short prompts, and languages without spaces, have too few words for it

`NearDuplicateFilter` finds prompts that differ from another one only in a slot. The similarity is the longest common
subsequence of the normalised words divided by the longer prompt's length: 1.0 for the same sentence, and 5/6 for "What
is the capital of France?" and "What is the capital of Spain?".

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
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import regex

from alttrain.records import Example

How = Literal["exact", "normalised", "similar", "ngram"]
DEFAULT: tuple[How, ...] = ("exact", "normalised", "similar")
Words = tuple[str, ...]

ALIKE = 0.6  # of `Lookalikes`: share of two texts' joint weight in common (Dice) if they are the same prompt
INSIDE = 0.8  # of `Lookalikes`: share of the shorter text's weight in a passage of the longer one that contains it

_LETTER = r"[\p{L}\p{N}_]"
_INNER = r"[\p{L}\p{N}_[\p{Mn}\p{Mc}--[\ufe00-\ufe0f]]]"  # vowel signs too, but not what chooses an emoji's form
_WORD = regex.compile(rf"{_LETTER}{_INNER}*(?:'{_LETTER}{_INNER}*)*", regex.V1)


def words(text: str) -> Words:
    """Return the lower-cased words of a text after NFKC normalisation, without punctuation. ’ becomes '."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("’", "'")))


def said(row: Example) -> Words:
    """Return the words of all user turns of a row."""
    return words("\n".join((*row.turns, row.prompt)))


_ROUNDING = 1e-6  # of a score, relative: 1 - 1/3 is a little less than 2/3


class NearDuplicateFilter:
    """Takes rows that are not near-duplicates of a taken row with the same label, also across calls.

    Without `threshold` it takes any row. Memory grows with the number of taken rows, time with its square.
    """

    def __init__(self, threshold: float | None) -> None:
        self._least = None if threshold is None else threshold * (1 - _ROUNDING)
        self._word_numbers: dict[str, int] = {}
        self._taken: dict[str, tuple[list[str], list[str | list[int]]]] = {}  # label -> ids, and texts as `_encoded`
        self.skipped: list[tuple[str, str, float]] = []  # the near-duplicates: id, id of the taken row, similarity

    def first(self, rows: Sequence[Example], amount: int | None) -> list[Example]:
        """Return the first `amount` distinct rows; None takes all."""
        if self._least is None:
            return list(rows[:amount])
        from rapidfuzz import process
        from rapidfuzz.distance import LCSseq

        distinct: list[Example] = []
        for row in rows:
            if len(distinct) == amount:
                break
            ids, texts = self._taken.setdefault(row.label, ([], []))
            encoded = self._encoded(said(row))
            match = process.extractOne(encoded, texts, scorer=LCSseq.normalized_similarity, score_cutoff=self._least)
            if match:
                _, similarity, index = match
                self.skipped.append((row.id, ids[index], similarity))
            else:
                distinct.append(row)
                ids.append(row.id)
                texts.append(encoded)
        return distinct

    def _encoded(self, text: Words) -> str | list[int]:
        """Return a text with one character per word, which the scorer compares fastest, or else one number per word."""
        numbers = [self._word_numbers.setdefault(word, len(self._word_numbers)) for word in text]
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
_SPACED = rf"(?![{_UNSPACED}])"
_RUNS = regex.compile(rf"[{_UNSPACED}]+|{_SPACED}(?:{_LETTER}|[@$!|])(?:{_SPACED}(?:{_INNER}|[@$!|]))*", regex.V1)
_NO_LETTER = regex.compile(rf"(?!{_INNER}).", regex.V1)


class Lookalikes:
    """Finds the rows that are the same as a benchmark's prompt, contain one, or are inside one."""

    def __init__(self, rows: Sequence[str]) -> None:
        self._rows = rows
        self._run_numbers: dict[str, int] = {}
        self._runs_of_word: dict[str, list[int]] = {}
        self._words = [_plain_words(text) for text in rows]
        self._row_runs = self._run_matrix(self._words)

    def find(self, prompts: Sequence[str]) -> Iterator[tuple[int, int, float, str]]:
        """Yield (index of a row, index of a prompt that matches it, similarity, passage).

        The passage is the part of the longer text that contains the shorter one, and the similarity the share of the
        shorter text's weight in it. Word frequencies are counted over the rows and these prompts.
        """
        prompt_words = [_plain_words(text) for text in prompts]
        counts = Counter(word for words in (*self._words, *prompt_words) for word in set(words))
        texts = max(len(self._words) + len(prompt_words), _FEW) + 1
        weights = {word: math.sqrt(math.log(texts / min(count, texts - 1))) for word, count in counts.items()}
        for i, j in self._suggested(self._run_matrix(prompt_words)):
            swapped = len(self._words[i]) > len(prompt_words[j])
            short, long = (prompt_words[j], self._words[i]) if swapped else (self._words[i], prompt_words[j])
            if overlap := _overlap(short, long, weights):
                similarity, first, last = overlap
                yield i, j, similarity, _passage(self._rows[i] if swapped else prompts[j], first, last)

    def _run_matrix(self, texts: Sequence[Sequence[str]]) -> Any:
        """Return which runs of four letters each text has (texts x runs, sparse): most survive a typing error."""
        import numpy as np
        from scipy import sparse

        runs = [
            sorted({run for word in set(words) for run in self._runs_of_word.get(word) or self._number_runs(word)})
            for words in texts
        ]
        columns = np.fromiter((run for text_runs in runs for run in text_runs), np.int32)
        starts = np.cumsum([0, *map(len, runs)])
        return sparse.csr_matrix(
            (np.ones(len(columns), np.float32), columns, starts), (len(texts), len(self._run_numbers))
        )

    def _number_runs(self, word: str) -> list[int]:
        """Return, and keep, the numbers of a word's runs of four letters, with the blanks around it."""
        padded = word if _unspaced(word) else f" {word} "
        runs = [padded[i : i + 4] for i in range(max(1, len(padded) - 3))]
        self._runs_of_word[word] = [self._run_numbers.setdefault(run, len(self._run_numbers)) for run in runs]
        return self._runs_of_word[word]

    def _suggested(self, prompts: Any) -> Iterator[tuple[int, int]]:
        """Yield pairs (row, prompt) with enough uncommon letter runs in common to be compared."""
        import numpy as np

        rows = self._row_runs.copy()
        rows.resize((rows.shape[0], len(self._run_numbers)))
        texts = rows.shape[0] + prompts.shape[0]
        counts = rows.getnnz(axis=0) + prompts.getnnz(axis=0)
        run_weights = np.log((texts + 1) / np.maximum(counts, 1)).astype(np.float32)
        run_weights[counts > max(_COMMON * texts, 20)] = 0
        row_weights, prompt_weights = rows @ run_weights, prompts @ run_weights
        rows.data *= run_weights[rows.indices]
        rows.eliminate_zeros()
        columns = prompts.T.tocsr()
        alike, inside = _SUGGESTS
        for start in range(0, rows.shape[0], _LOOKALIKE_BLOCK):
            shared = (rows[start : start + _LOOKALIKE_BLOCK] @ columns).tocoo()
            left, right = row_weights[start + shared.row], prompt_weights[shared.col]
            near = shared.data >= np.minimum(inside * np.minimum(left, right), alike * (left + right) / 2)
            yield from zip((start + shared.row[near]).tolist(), shared.col[near].tolist(), strict=True)


def _plain_words(text: str) -> list[str]:
    return [word for chunk in text.split() for word in _plain(chunk)]


@lru_cache(maxsize=200_000)
def _plain(chunk: str) -> tuple[str, ...]:
    """Return the words of a text without blanks, in plain spelling."""
    decomposed = unicodedata.normalize("NFKD", _INVISIBLE.sub("", chunk))
    letters = (c for c in decomposed if unicodedata.category(c) != "Cf" and not _decorates(unicodedata.combining(c)))
    bare = "".join(letters)
    words: list[str] = []
    for run in _RUNS.findall(unicodedata.normalize("NFC", bare).translate(_LETTERS).casefold()):
        if _unspaced(run):
            size = 3 if run[0] < "\u3000" else 1 if run[0] < "\uac00" else 2
            words += [run[start : start + size] for start in range(max(1, len(run) - size + 1))]
        else:
            word = run.strip("!|")
            words.append(_NO_LETTER.sub("", word.translate(_DIGITS) if re.search(r"[^\W\d_]", word) else word))
    return tuple(filter(None, words))


def _unspaced(word: str) -> bool:
    return _IS_UNSPACED.match(word) is not None


def _decorates(combining: int) -> bool:
    """Return whether a mark of this class decorates a letter; vowels of Thai and Indic scripts have other classes."""
    return combining == 1 or 10 <= combining <= 36 or combining >= 200


def _passage(text: str, first: int, last: int) -> str:
    """Return the part of a text from word number `first` to `last`, up to the blanks around it."""
    chunks, words_before = [], 0
    for chunk in text.split():
        count = len(_plain(chunk))
        if words_before + count > first and words_before <= last:
            chunks.append(chunk)
        words_before += count
    return " ".join(chunks)


def _overlap(short: Sequence[str], long: Sequence[str], weights: Mapping[str, float]) -> tuple[float, int, int] | None:
    """Return (share of the shorter text's weight, first word, last word) of the best passage; None if texts differ."""
    short_counts = Counter(short)
    counterpart = _counterparts(short_counts, long)
    matched = [counterpart.get(word) for word in long]
    short_weight, long_weight = (sum(weights[word] for word in words) for words in (short, long))
    common = short_counts & Counter(filter(None, matched))
    common_weight = sum(weights[word] * count for word, count in common.items())
    size = min(len(long), len(short) + (len(short) // 2 if len(short) >= _LOOSE else 0))
    window_weight, last = _best_window(matched, size, short_counts, weights)
    if 2 * common_weight >= ALIKE * (short_weight + long_weight):
        passage, share = range(len(long)), common_weight / short_weight
    elif window_weight >= INSIDE * short_weight and len(short) >= _SHORTEST:
        passage, share = range(max(0, last - size + 1), last + 1), window_weight / short_weight
        passage = passage[next(offset for offset, index in enumerate(passage) if matched[index]) :]
    else:
        return None
    other_number = any(long[index].isdigit() and long[index] not in short_counts for index in passage)
    if other_number and any(word.isdigit() and word not in long for word in short_counts):
        return None
    return share, passage[0], passage[-1]


def _counterparts(short_counts: Mapping[str, int], long: Sequence[str]) -> dict[str, str]:
    """Return the longer text's words -> the shorter one's, equal or one typing error away (two in long words)."""
    from rapidfuzz import process
    from rapidfuzz.distance import OSA

    long_words = set(long)
    counterparts = {word: word for word in long_words if word in short_counts}
    missing = [word for word in short_counts if word not in long_words and _may_be_mistyped(word)]
    candidates = sorted(word for word in long_words if word not in short_counts and _may_be_mistyped(word))
    if missing and candidates:
        distances: Any = process.cdist(missing, candidates, scorer=OSA.distance, score_cutoff=2)
        for i, j in zip(*(distances <= 2).nonzero(), strict=True):
            if distances[i, j] == 1 or min(len(missing[i]), len(candidates[j])) >= 8:
                counterparts.setdefault(candidates[j], missing[i])
    return counterparts


def _may_be_mistyped(word: str) -> bool:
    return len(word) >= 4 and not word.isdigit() and not _unspaced(word)


def _best_window(
    matched: Sequence[str | None], size: int, short_counts: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[float, int]:
    """Return (most weight in `size` consecutive words, index of the last); no word counts more often than in short."""
    counts: Counter[str] = Counter()
    weight, best, last = 0.0, 0.0, 0
    for index, word in enumerate(matched):
        if word:
            counts[word] += 1
            weight += weights[word] * (counts[word] <= short_counts[word])
        if index >= size and (leaving := matched[index - size]):
            weight -= weights[leaving] * (counts[leaving] <= short_counts[leaving])
            counts[leaving] -= 1
        if weight > best + 1e-9:
            best, last = weight, index
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
    """Return the matches of (id, prompt) rows with each benchmark's prompts, in the order of rows and benchmarks.

    A dialogue is several rows of one id, its user's turns; the first turn that matches a benchmark is its match.
    `ways` are the kinds of match to look for, `ngram` the number of words of an "ngram" match.
    """
    if not ways or not against:
        return []
    texts = [text for _, text in rows]
    row_words = [words(text) for text in texts]
    lookalikes = Lookalikes(texts) if "similar" in ways else None
    first: dict[tuple[str, str], tuple[int, Match]] = {}  # by row and benchmark, with the index of the turn
    for name, prompts in against.items():
        numbered = [*enumerate(prompts)][::-1]  # from the last one, so that the first of equal ones is found
        prompt_words = [(number, words(prompt)) for number, prompt in numbered]
        exact = {prompt: number for number, prompt in numbered if "exact" in ways}
        normalised = {spoken: number for number, spoken in prompt_words if spoken and "normalised" in ways}
        ngrams = {run: number for number, spoken in prompt_words if "ngram" in ways for run in _ngrams(spoken, ngram)}
        pairs = lookalikes.find(prompts) if lookalikes else ()
        ascending = sorted(pairs, key=lambda pair: (pair[2], len(pair[3]), -pair[1]))
        similar = {pair[0]: pair[1:] for pair in ascending}  # the best match of each row
        for index, (row, text) in enumerate(rows):
            how: How
            similarity, passage = 1.0, text
            shared = [run for run in _ngrams(row_words[index], ngram) if run in ngrams] if ngrams else []
            if text in exact:
                how, number = "exact", exact[text]
            elif row_words[index] in normalised:
                how, number = "normalised", normalised[row_words[index]]
            elif index in similar:
                number, similarity, passage = similar[index]
                how, similarity = "similar", round(similarity, 3)
            elif shared:
                run = min(shared, key=ngrams.__getitem__)
                how, number, passage = "ngram", ngrams[run], " ".join(run)
            else:
                continue
            match = Match(row, name, number + 1, how, similarity, prompts[number], passage)
            first.setdefault((row, name), (index, match))
    return [match for _, match in sorted(first.values(), key=lambda entry: entry[0])]


def _ngrams(spoken: Words, length: int) -> list[Words]:
    return [spoken[start : start + length] for start in range(len(spoken) - length + 1)]
