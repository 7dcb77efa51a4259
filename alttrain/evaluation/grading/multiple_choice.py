"""Multiple choice: the letter that an answer gives, in English or Chinese. Nothing is guessed.

The options are the last lines of the prompt that begin with "A.", "B)", "(C)" or "D：" in order. The letter is found by
the first rule that applies:

1. the last box
2. the option whose text is the whole answer
3. a line that has only the answer ("Answer: B"), as the prompts ask for, and what is stated after it
4. a statement ("the answer is (B)", "<answer>B</answer>", "选B")
5. a letter that is called right ("C is correct")
6. the beginning of a line, also after "therefore"
7. the only option whose text the answer repeats

If a rule finds several letters, the answer is ambiguous and wrong. After a box without a letter or an option's text,
such as a calculated value, only rules 3 to 5 apply.
"""

import re
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from alttrain.evaluation.grading.final_answer import FONT, Grader, boxed_answer, is_denied, stated_answers
from alttrain.records import Generation, Judgement

_OPTION = re.compile(r"^[^\S\n]*\(?([A-Z])[^\S\n]*[.):、](.*)", re.M)
_OPENING = r"[\s:(\[【\"'“‘]*+"
_END = r"(?!['’]|[^\W_\u2e80-\ud7af])"
"""After a letter no word goes on. A Chinese character begins a word of its own, though it is no border to a \\b."""
_ALSO = (
    r"(?:\s*+(?:[/、&+|]|,(?!\s*[A-Z](?!选?项?[也都均皆可行])[㐀-鿿])|[.;,(]*+\s*+(?:[Oo]r|[Aa]lternatively|或者?)|and"
    r"|和|与)(?:\s+(?:maybe|perhaps|possibly|else|even))*"
    rf"\s*\(?(?:选择?)?(?P<also>[A-Z]){_END})?"
)
_GO_ON = "because|since|as|for|and|or|is|which|with|by|due|rather|according|based"
"""Words after a letter that say more of it; after another one the letter is a word itself, as in "A matter"."""
_LETTER = (
    rf"{_OPENING}(?:option|choice|选项)?{_OPENING}(?P<one>[A-Z])(?P<more>[A-Z]*+){_END}"
    rf"(?!\s+(?!(?:{_GO_ON})\b)[a-z])[)\]】]?" + _ALSO
)
_STATEMENTS = (
    r"(?a:\b)(?i:answer|choice|option)(?a:\b)(?:[^.:\n]{0,40}?\b(?i:is|are|would be|must be|should be)\b|\s*[:=])",
    r"<(?i:answer)>",
    r"(?<!not )(?i:(?a:\b)(?:choose|select|pick|go with))(?:\s+(?i:the))?",
    r"(?:答案】?|选项)\s*+(?:应该|应当|应|就|只能)?+\s*+(?:是|为|选择?)?",
    r"(?<![不非别勿未])(?:选择?|故选|应选|(?:正确|符合题意)的?[是为])",
)
_AFTER = (
    r"(?<![A-Za-z])(?:(?i:option|choice)\s+)?\(?(?P<one>[A-Z])(?P<more>)\)?\s+is\s+(?:the\s+)?(?i:correct|right|"
    r"best|true)\b(?!\s+(?!answer|choice|option|one|here|because|since|as|and|for)[a-z])(?P<also>)",
    r"(?<![A-Za-z])(?P<one>[A-Z])(?P<more>)\s*+(?:选项|项)?+\s*+(?:是|为|最)?+\s*+(?:正确|对的|符合题意)(?P<also>)",
)
_ANSWER = r"(?i:(?:(?:the|my|final|correct) )*answer)|(?:正确)?答案"
_ALONE = [re.compile(rf"^[^\w\n]*(?:{_ANSWER})\s*+[:=]\s*+{_LETTER}[^\w\n]*$", re.M)]
_STATED = [re.compile(rf"(?:{statement})\s*+{_LETTER}") for statement in _STATEMENTS]
_CALLED = [re.compile(after) for after in _AFTER]
_LINE = re.compile(
    r"^#*+[^\S\n]*+(?:(?i:therefore|thus|hence|so|conclusion|result)[^\S\n]*+[:,]?[^\S\n]*+)?"
    r"[(\[【]?(?P<one>[A-Z])(?P<more>[A-Z]{0,9})(?:[)\]】.。:、,]|\s*$|(?=\s*(?:or|and|或|和)\s))" + _ALSO,
    re.M,
)
_OPTION_NAME = re.compile(r"\b(?i:option|choice)\s+(?=[A-Z]\b)")
_LIST = re.compile(r"\(?[A-Z]\)?(?:\s*[,;/&|]\s*\(?[A-Z]\)?)+")
_EDGES = " \n.。,;:!?\"'"
_MARKUP = re.compile(rf"{FONT}|[*_`$\\{{}}]|\\[()\[\]]")


@dataclass(frozen=True)
class Choice(Grader):
    """Right if the answer gives the gold letter and no other. `letters` are the options if a prompt lists none."""

    letters: str = "ABCD"
    name: str = "choice"

    def golds_of(self, generation: Generation) -> list[str]:
        """The gold letter. Raises ValueError if it is not one of the options' letters."""
        gold = [text.strip().strip("()").upper() for text in generation.gold[:1]]
        if gold and gold[0] not in (choices := self._choices(generation)):
            raise ValueError(f"gold {generation.gold[0]!r} is no option; accepted: {', '.join(choices)}")
        return gold

    def grade(self, generation: Generation, golds: Sequence[str]) -> Judgement:
        letters, how = chosen_letters(generation.answer, self._choices(generation))
        if len(letters) == 1:
            return Judgement(generation.id, self.name, letters == {*golds}, f"{how}: {min(letters)}")
        evidence = f"ambiguous: {how} gives {', '.join(sorted(letters))}" if letters else "no choice found"
        return Judgement(generation.id, self.name, False, evidence)

    def _choices(self, generation: Generation) -> dict[str, str]:
        return options(generation.prompt) or dict.fromkeys(self.letters, "")


def options(prompt: str) -> dict[str, str]:
    """Letter -> text of the last options in a prompt: lines that begin with A, B, C... in order."""
    texts: dict[str, str] = {}
    for letter, text in _OPTION.findall(unicodedata.normalize("NFKC", prompt)):
        if letter == "A":
            texts = {"A": text.strip()}
        elif texts and string.ascii_uppercase.index(letter) == len(texts):
            texts[letter] = text.strip()
    return texts if len(texts) > 1 else {}


def chosen_letters(answer: str, choices: Mapping[str, str]) -> tuple[set[str], str]:
    """(the letters that an answer gives, the rule that found them); no letters if no rule applies."""
    return next((found for found in _found(answer, choices) if found[0]), (set(), ""))


def _found(answer: str, choices: Mapping[str, str]) -> Iterator[tuple[set[str], str]]:
    """What each rule finds, in their order."""
    text = unicodedata.normalize("NFKC", answer)  # full-width characters as ordinary ones
    plain, box = _MARKUP.sub("", text), boxed_answer(text)
    if box is None:
        yield _same_text((stated_answers(text) or [text])[-1], choices), "option text"
    else:
        content = _OPTION_NAME.sub("", _MARKUP.sub("", box).strip())
        yield _same_text(content, choices), "box"
        if _LIST.fullmatch(content):
            yield set(re.findall("[A-Z]", content)) & set(choices), "box"
        yield _letters([_LINE, *_STATED], content, choices) or _restated(content, choices), "box"
    if alone := _ALONE[0].search(plain):  # what is stated after it may take it back
        yield _letters([*_ALONE, *_STATED], plain[alone.start() :], choices), "statement"
    for patterns in (_STATED, _CALLED):
        yield _letters(patterns, plain, choices), "statement"
    if box is None:
        yield _letters([_LINE], plain, choices), "line"
        yield _restated(plain, choices), "option text"


def _letters(patterns: list[re.Pattern[str]], text: str, choices: Mapping[str, str]) -> set[str]:
    """All option letters that the patterns find: two in "AB" and "A or B", none in the words "RAM" and "TAT"."""
    letters: set[str] = set()
    for match in (match for pattern in patterns for match in pattern.finditer(text)):
        written = match["one"] + match["more"]
        option_text = re.compile(r" *" + re.escape(choices.get(match["one"], ""))).match(text, match.end())
        ends = [match.end("more"), match.end(), *([option_text.end()] if option_text else [])]
        if any(is_denied(text, match.start(), end) for end in ends):
            continue
        if set(written) <= set(choices) and len(set(written)) == len(written):
            letters |= set(written) | ({match["also"]} & set(choices))
    return letters


def _texts(choices: Mapping[str, str]) -> dict[str, str]:
    """Letter -> normalised text of the options, without empty ones and those that are only option letters ("BC")."""
    return {letter: _words(text) for letter, text in choices.items() if text and not _only_letters(text, choices)}


def _only_letters(text: str, choices: Mapping[str, str]) -> bool:
    letters = re.sub(r"[\W_]", "", _MARKUP.sub("", text))
    return 0 < len(letters) == len(set(letters)) and set(letters) <= set(choices)


def _same_text(text: str, choices: Mapping[str, str]) -> set[str]:
    """The option whose whole text is `text`; empty if there is none, or more than one."""
    if _only_letters(text, choices):
        return set()
    for normalise in (_trimmed, _words):  # literal text first: options may differ in signs that look like mark-up
        letters = {letter for letter in _texts(choices) if normalise(choices[letter]) == normalise(text)}
        if letters:
            return letters if len(letters) == 1 else set()
    return set()


def _restated(text: str, choices: Mapping[str, str]) -> set[str]:
    """The options whose text occurs as whole words, and not only inside a longer option's text."""
    unread, letters = _words(text), set()
    for letter, words in sorted(_texts(choices).items(), key=lambda item: -len(item[1])):
        if not words or (len(words) == 1 and words.isascii() and words.isalpha()):
            continue  # the word "a" is in every English text
        before = r"(?<![a-z0-9.])" if words[0].isascii() else ""
        after = r"(?![a-z0-9])(?!\.\d)" if words[-1].isascii() else ""
        pattern = re.compile(f"{before}{re.escape(words)}{after}")
        if any(not is_denied(unread, *match.span()) for match in pattern.finditer(unread)):
            letters.add(letter)
        unread = pattern.sub("\0", unread)
    return letters


def _words(text: str) -> str:
    """Lower case without mark-up and surrounding punctuation."""
    return " ".join(_MARKUP.sub("", unicodedata.normalize("NFKC", text)).lower().split()).strip(_EDGES)


def _trimmed(text: str) -> list[str]:
    return text.strip(_EDGES).split()
