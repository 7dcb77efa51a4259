"""Splits a text into sentences, never inside a quotation ("How do I ...? And why?"), and recognises English."""

import re
from collections.abc import Iterator

_BREAK = re.compile(r"\n[^\S\n]*\n")
_MARK = re.compile(rf"[.!?…]+|[\"“‘']|{_BREAK.pattern}")
_CLOSERS = re.compile(r"[\"”’')\]*_]*")
_NEXT_WORD = re.compile(r"[\s\"“‘'(\[*_]{0,99}([^\W_][\w'’-]*)?")
_LAST_WORD = re.compile(r"[^\s\"“”‘(\[]{0,20}$")
_LIST_NUMBER = re.compile(r"\s{0,99}(?:\d{1,3}|[A-Za-z])")
_NEVER_ENDS = re.compile(r"e\.?g|i\.?e|mrs?|ms|dr|prof|st|vs|cf|figs?|eqs?|gov|gen|sgt|capt", re.I)
_MAY_END = re.compile(  # abbreviations, "U.S." and initials. A sentence may end after them; the next word decides.
    r"etc|al|inc|ltd|co|jr|sr|approx|dept|nos?|vol|min|max|resp|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|"
    r"(?:[a-z]\.)+[a-z]|[a-hj-z]",
    re.I,
)
_LONGER_THAN_ANY = 7
"""Number of letters in a row that no abbreviation has. Most sentences end on such a word, so this is a shortcut."""
_LONGEST_SINGLE, _LONGEST_DOUBLE = 500, 10_000
"""Maximum length of quotations in single and in double quotes, in characters."""
_OPENS = re.compile(
    r"the|this|that|these|it|they|there|he|she|we|i|i'm|you|but|so|and|or|if|when|first|let|then|now|my|hmm|okay|well|"
    r"wait|maybe|also|since|because|however|what|how|why"
)
"""Words that begin a sentence after such an abbreviation ("in the U.S. The ...", but "the U.S. Senate")."""


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each sentence in order, without surrounding whitespace, lazily."""
    last = 0
    for end in _ends(text):
        if sentence := text[last:end].strip():
            start = text.index(sentence, last)
            yield start, start + len(sentence)
        last = end


def _ends(text: str) -> Iterator[int]:
    """Yield the end of each sentence, after its closing quotes and brackets, and the end of the text."""
    start = position = 0
    while match := _MARK.search(text, position):
        mark, mark_start, position = match[0], match.start(), match.end()
        if mark[0] == "\n":
            yield (start := mark_start)
        elif mark[0] not in ".!?…":
            position = _after_quotation(text, mark_start)
            if position > mark_start + 2 and text[position - 2] in ".!?…":  # it also ends the surrounding sentence
                position = _past_closers(text, position)
                if _may_follow(text, position):
                    yield (start := position)
        else:
            position = _past_closers(text, position)
            if _may_follow(text, position) and _stops(text, start, mark_start, mark, position):
                yield (start := position)
    yield len(text)


def _opens_quotation(text: str, position: int) -> bool:
    """Return whether the quotation mark at `position` opens a quotation."""
    before, after = text[max(0, position - 1) : position], text[position + 1 : position + 2]
    free = not before or before.isspace() or before in "([{—–-/:,*_“‘\"'"
    return text[position] in "“‘" or (free and after != "" and not after.isspace())


def _after_quotation(text: str, start: int) -> int:
    """Return the position after the quotation that the mark at `start` opens, or after the mark if it opens none.

    A single-quoted quotation ends within its paragraph, and an apostrophe inside a word does not close it. A
    double-quoted one may span paragraphs. But if the next straight quote after the paragraph break opens a quotation,
    this one was never closed.
    """
    if not _opens_quotation(text, start):
        return start + 1
    closer = {"“": "”", "‘": "’"}.get(text[start], text[start])
    single = closer in "'’"
    furthest = start + (_LONGEST_SINGLE if single else _LONGEST_DOUBLE)
    paragraph_break = _BREAK.search(text, start, furthest)
    limit = paragraph_break.start() if paragraph_break and single else furthest
    close = text.find(closer, start + 1, limit)
    while single and close >= 0 and (text[close + 1 : close + 2].isalnum() or text[close - 1].isspace()):
        close = text.find(closer, close + 1, limit)
    if close < 0:
        return start + 1
    spans = paragraph_break is not None and paragraph_break.start() < close
    return start + 1 if spans and closer == '"' and _opens_quotation(text, close) else close + 1


def _past_closers(text: str, position: int) -> int:
    return _CLOSERS.match(text, position).end()  # type: ignore[union-attr]  # it matches anywhere


def _may_follow(text: str, position: int) -> bool:
    """Return whether a sentence may begin at `position`: at the end, or at whitespace before no lower-case letter."""
    return position == len(text) or (text[position].isspace() and not _next_word(text, position)[:1].islower())


def _stops(text: str, start: int, mark_start: int, mark: str, after: int) -> bool:
    """Return whether the punctuation `mark` ends the sentence that begins at `start`.

    It does not after an abbreviation, after a number that begins a sentence or a line, or as a pause.
    """
    if mark == "." and mark_start >= _LONGER_THAN_ANY and text[mark_start - _LONGER_THAN_ANY : mark_start].isalpha():
        return True
    following = _next_word(text, after).lower().replace("’", "'")
    if mark in ("..", "...", "....", "…"):
        return not re.fullmatch(r"i|i'\w+", following)
    if mark != "." or not following:
        return True
    if _LIST_NUMBER.fullmatch(text, max(start, text.rfind("\n", start, mark_start) + 1), mark_start):
        return False
    word = _LAST_WORD.search(text, max(0, mark_start - 20), mark_start)[0]  # type: ignore[index]
    if _NEVER_ENDS.fullmatch(word):
        return False
    return not _MAY_END.fullmatch(word) or _OPENS.fullmatch(following) is not None


def _next_word(text: str, position: int) -> str:
    return _NEXT_WORD.match(text, position)[1] or ""  # type: ignore[index]


LANGUAGE_READ = 600  # number of characters that `is_english` reads
_FREQUENT = {  # frequent words by language. No foreign word in it is an English word.
    "English": "the of and to i you that it is for with are this can can't cannot not have but from by my your will at",
    "Spanish": "que para una pero como puedo por del esta lo es de el",
    "German": "der das und ist nicht ein eine ich mit auf zu im von sich aber wird kann",
    "French": "le la les des une est et pas je vous ne dans avec qui cette mais",
    "Italian": "il che di non sono con questa posso gli ecco della",
    "Portuguese": "uma com isso em os mais",
    "Dutch": "het een niet ik voor dat maar",
    "Vietnamese": "cho anh em khi trong xin",  # those without diacritics
    "Swahili": "na ya kwa ni hii za katika siwezi",
    "Indonesian and Javanese": "yang dan untuk tidak saya ini dengan itu aku ora iki",
}
FREQUENT_ENGLISH = frozenset(_FREQUENT["English"].split())
_FOREIGN = frozenset(" ".join(_FREQUENT.values()).split()) - FREQUENT_ENGLISH
_LETTERS = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def first_words(text: str) -> list[str]:
    """Return the lower-case words of a text's first `LANGUAGE_READ` characters; "can't" is one word."""
    return _LETTERS.findall(text[:LANGUAGE_READ].lower())


def is_english(text: str) -> bool:
    """Return whether a text is English: most letters are Latin, and foreign words do not outnumber English ones.

    Only frequent English words count as English. Frequent foreign words and words with non-ASCII letters count as
    foreign. A text with at most one distinct foreign word is English, such as names, numbers or code.
    """
    words = first_words(text)
    letters = "".join(words)
    if sum(ord(letter) > 0x2AF and not 0x1E00 <= ord(letter) <= 0x1EFF for letter in letters) * 2 > len(letters):
        return False
    english = sum(word in FREQUENT_ENGLISH for word in words)
    foreign = [word for word in words if word in _FOREIGN or (word.isalpha() and not word.isascii())]
    return len(set(foreign)) < 2 or len(foreign) <= english
