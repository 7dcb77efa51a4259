"""Prompts that a reader would call the same, however they are spelled, and whether one is inside the other.

A text becomes words in a plain spelling: Unicode's forms of a letter, letters of other alphabets that look like it,
digits written for it and marks upon it are one, invisible characters none. Chinese and Japanese give characters;
Korean, whose words carry endings, and Thai and its neighbours, which have no spaces, give overlapping runs of them.
Words weigh sqrt(log(texts / texts with the word)), so that what most questions share counts little, and a word that
was mistyped is still found. Two texts are the same if they share enough of that weight in any order, or if nearly all
of the shorter one's is close together in the longer one. Texts whose numbers differ are not the same.

The thresholds were chosen on OR-Bench, CoCoNot, STAR-1 and NQ-open (`scripts/measure_decontamination.py --choose`).
Reads and writes no file.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

ALIKE = 0.6
"""The share of two texts' weight, both counted, that they have in common (Dice) if they are the same prompt."""
INSIDE = 0.8
"""The share of the shorter text's weight that a passage of the longer one has if it holds the whole shorter one."""

_FEW = 1000  # texts: fewer say too little of how common a word is
_SHORTEST = 3  # words of a text that is looked for inside others
_LOOSE = 5  # words from which a passage may be half as long again as what it holds
_COMMON = 0.1  # the share of texts from which a run of letters is too common to suggest a pair, unless they are few
_SUGGESTS = 0.35, 0.5  # the weight of letters' runs in common (alike, inside) from which a pair is looked at
_BLOCK = 512  # rows compared at once: against 12,000 prompts their scores take up to 50 MB

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
    """Row and prompt, by index, that are the same; `passage` is the part of the longer text that holds the shorter."""

    row: int
    prompt: int
    similarity: float
    passage: str


class Lookalikes:
    """Finds, for each benchmark, the rows that are the same as a prompt of it, or hold one, or are inside one."""

    def __init__(self, rows: Sequence[str]) -> None:
        self._rows = rows
        self._runs: dict[str, int] = {}
        self._of_word: dict[str, list[int]] = {}
        self._words = [_words(text) for text in rows]
        self._matrix = self._counted(self._words)

    def find(self, prompts: Sequence[str]) -> Iterator[Lookalike]:
        """The pairs that are the same. How common a word is, is counted over the rows and these prompts.

        `similarity` is the share of the shorter text's weight that is found in the passage.
        """
        theirs = [_words(text) for text in prompts]
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
        """Which runs of four letters each text has (texts x runs, sparse); a typing error leaves many of a text's."""
        import numpy as np
        from scipy import sparse

        runs = [
            sorted({run for word in set(words) for run in self._of_word.get(word) or self._four(word)})
            for words in texts
        ]
        columns = np.fromiter((run for own in runs for run in own), np.int32)
        starts = np.cumsum([0, *map(len, runs)])
        return sparse.csr_matrix((np.ones(len(columns), np.float32), columns, starts), (len(texts), len(self._runs)))

    def _four(self, word: str) -> list[int]:
        """The numbers of a word's runs of four letters, blanks around it included."""
        padded = word if _unspaced(word) else f" {word} "
        runs = [padded[i : i + 4] for i in range(max(1, len(padded) - 3))]
        self._of_word[word] = [self._runs.setdefault(run, len(self._runs)) for run in runs]
        return self._of_word[word]

    def _suggested(self, theirs: Any) -> Iterator[tuple[int, int]]:
        """Pairs of a row and a prompt that have enough uncommon runs in common to be looked at."""
        import numpy as np

        rows = self._matrix.copy()
        rows.resize((rows.shape[0], len(self._runs)))
        texts = rows.shape[0] + theirs.shape[0]
        counts = rows.getnnz(axis=0) + theirs.getnnz(axis=0)
        weight = np.log((texts + 1) / np.maximum(counts, 1)).astype(np.float32)
        weight[counts > max(_COMMON * texts, 20)] = 0
        mine, its = rows @ weight, theirs @ weight
        rows.data *= weight[rows.indices]
        rows.eliminate_zeros()
        columns = theirs.T.tocsr()
        alike, inside = _SUGGESTS
        for start in range(0, rows.shape[0], _BLOCK):
            shared = (rows[start : start + _BLOCK] @ columns).tocoo()
            left, right = mine[start + shared.row], its[shared.col]
            near = shared.data >= np.minimum(inside * np.minimum(left, right), alike * (left + right) / 2)
            yield from zip((start + shared.row[near]).tolist(), shared.col[near].tolist(), strict=True)


def _words(text: str) -> list[str]:
    return [word for chunk in text.split() for word in _plain(chunk)]


@lru_cache(maxsize=200_000)
def _plain(chunk: str) -> tuple[str, ...]:
    """The words between two blanks in their plain spelling."""
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
    """Whether marks of this class are drawn on letters; vowels of Thai and Indic scripts are of others."""
    return combining == 1 or 10 <= combining <= 36 or combining >= 200


def _passage(text: str, first: int, last: int) -> str:
    """The part of a text from one of its words to another, up to the blanks around."""
    chunks, passed = [], 0
    for chunk in text.split():
        count = len(_plain(chunk))
        if passed + count > first and passed <= last:
            chunks.append(chunk)
        passed += count
    return " ".join(chunks)


def _same(short: Sequence[str], long: Sequence[str], weights: Mapping[str, float]) -> tuple[float, int, int] | None:
    """The share of the shorter text in the best passage of the longer one and its first and last word, if the same."""
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
    """The words of the longer text that are words of the shorter one, or one typing error away (two in long words)."""
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
    """The most weight that so many words in a row have, none counted more often than wanted, and the last of them."""
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
