r"""The grader of mathematics: finds the final answer in an answer and compares it with the gold answer.

The final answer is, in this order:

1. the last \boxed{...}; boxes separated only by blanks, commas, "and" or "or" form one list
2. the last phrase after "the (final) answer is", "Answer:" or "####" that has a number or formula, else the last phrase
3. the last formula between dollar signs or \( \), or the last number, whichever comes later

In a phrase of rule 2, the answer is the number after the last "is" or "equals", else the last formula, else the first
number after the last equals sign. What a text denies ("not 4") never counts. In "one of 1, 2 or 3" all three count. Of
a gold answer that is a worked solution of GSM8K, the part after #### counts.

math-verify compares the answers, in a process of its own (`verifier`). Rules of MATH, GSM8K and AIME that it does not
know are applied first (`scripts/measure_graders.py` measures both):

- units and currency are ignored
- a percentage equals its number or a hundredth of it
- decimals are compared exactly, words as words, numerals of other bases together with their base
- an integral or sum that is not worked out is not an answer
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from alttrain.evaluation.grading.extraction import LONGEST, NO_ANSWER, boxed, denied, no_gold, stated
from alttrain.evaluation.grading.verifier import verified
from alttrain.evaluation.judges.judge import RowJudge
from alttrain.records import Generation, Judgement

_FORMULA = re.compile(
    rf"\\\[(.{{1,{LONGEST}}}?)\\\]|\\\((.{{1,{LONGEST}}}?)\\\)|\$\$(.{{1,{LONGEST}}}?)\$\$"
    r"|(?<![\\\d])\$(?=[^\s$])((?:\\\$|[^$\n])*?[^\s$\\])\$(?!\d)",
    re.S,
)
_NUMBER = re.compile(
    r"(?<![\w.])[-−]?\\?[$€£¥]?\s?[-−]?(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)?(?:(?<=\d)\.\d+|(?<!\d)\.\d+|(?<=\d))"
    r"(?:\s*/\s*\d[\d,]*)?(?:\s*\\?%|\s*percent\b)?"
)
_NAMED = re.compile(rf"\b(?:is|are|equals)\s+(?:(?:exactly|approximately|about)\s+)?({_NUMBER.pattern})")
_BARE = re.compile(r"[^\W\d_]{3,}")
_FUNCTIONS = re.compile(
    r"\\(?:begin|end|text|mbox|mathrm|textbf)\s*\{[^}]*\}|\\[a-zA-Z]+|\b(?:sqrt|sin|cos|tan|cot|log|pi|and)\b"
)
_JOINS = re.compile(r"\s*(?:(?:,|;|\band|\bor|\.\.\.|…|maybe|perhaps|possibly|it is|\.(?=\s+[Oo]r)|Or)\s*){1,5}")
_OPEN = re.compile(r"\b(?:or|one of|either|between|maybe|perhaps|possibly)\b|\.\.\.|…", re.I)
_SIGNS = str.maketrans(
    dict(zip("−–，（）＝", "--,()=", strict=True))
    | {"½": r"\frac{1}{2}", "²": "^2", "³": "^3", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt "}
    | {"×": r"\times ", "·": r"\cdot ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "∈": r"\in "}
)
_GONE = re.compile(
    r"(?<!\\)\\(?:left|right|displaystyle|quad|[!,;: ])(?![a-zA-Z])|~|\*\*|\\?[$€£¥]|(?<!\\)\\[()\[\]]"
    r"|\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree\b|°"
)
_UNIT = re.compile(
    r"(?<=[\w.})])\s*\\(?:text|textnormal|textrm|mbox|mathrm)\s*\{(?:[^{}\d^]|\^\d)*\}(?:\s*\^\s*\{?\d\}?)?$"
    r"|(?<=[\d}.])(?:\s(?!(?:sqrt|and|base|mod|sin|cos|tan|cot|sec|csc|log|pi)\b)[a-zA-Z]{3,}|\s?(?:cm|mm|km|kg|ft|in|mi)\b)"
    r"(?:[ ./]+[a-zA-Z]+)*(?:\s*\^\s*\{?\d\}?)?$"
)
_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm|mathbf|operatorname|rm|bf)\s*\{([^{}]*)\}")
_VERBAL = re.compile(r"\(?[A-Z]\)?|[^\W\d_]{2,}(?:[\s'’.-]+[^\W\d_]+)*")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)")
_PERCENT = re.compile(r"\\?%|\s*\bpercent\b")
_BASED = re.compile(r"\d+_\{?\d+\}?")
_OPERATION = re.compile(r"\\(?:i*int|oint|sum|prod|lim)(?![a-z])|\\frac\s*\{d\}")


@dataclass(frozen=True)
class Maths(RowJudge):
    """Right if the final answer equals the gold answer; the module docstring says what equal means."""

    name: str = "maths"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Grade one answer; undecided, with an error, without a gold answer or if math-verify times out."""
        golds = [found for gold in generation.gold if (found := gold_answer(gold))]
        if not golds:
            return no_gold(generation, self.name)
        if not generation.answer.strip():
            return Judgement(generation.id, self.name, False, NO_ANSWER)
        found = final_answer(generation.answer)
        try:
            right = bool(found) and any(equal(gold, found) for gold in golds)
        except TimeoutError as error:
            return Judgement(generation.id, self.name, None, found, error=str(error))
        return Judgement(generation.id, self.name, right, found or "no final answer found")


def gold_answer(gold: str) -> str:
    """The gold answer; if it contains ####, the part after it."""
    return gold.rpartition("####")[2].strip()


def final_answer(answer: str) -> str:
    """The final answer as written, or "" if no rule finds one."""
    if box := boxed(answer):
        return box
    if phrases := stated(answer):
        telling = [phrase for phrase in phrases if re.search(r"[\d$\\]", phrase)]
        return _of_phrase((telling or phrases)[-1])
    plain = answer.replace("**", "")
    formulas, numbers = _found(_FORMULA, plain), _found(_NUMBER, plain)
    if len(numbers) > 1 and not formulas and re.fullmatch(r"[\s,;|/(){}\[\].]*", _NUMBER.sub("", plain)):
        return plain.strip() if re.search(r"[(\[]", plain) else ", ".join(number[0].strip() for number in numbers)
    if formulas and (not numbers or formulas[-1].end() >= numbers[-1].end()):
        return _formulas(plain, formulas)
    return _numbers(plain, numbers, -1)


def _found(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The matches of a pattern that the text does not deny."""
    return [found for found in pattern.finditer(text) if not denied(text, *found.span())]


def _of_phrase(phrase: str) -> str:
    """The answer in a phrase."""
    if formulas := _found(_FORMULA, phrase):
        named = _NAMED.search(phrase, formulas[-1].end())
        return named[1].strip() if named else _formulas(phrase, formulas)
    phrase = phrase.strip().rstrip(".。").strip(" *`")
    symbols = _FUNCTIONS.sub("", phrase)
    if not _BARE.search(symbols) and ("=" not in symbols or re.search(r"[a-zA-Z]", symbols)):
        return phrase  # a formula or an equation without dollar signs
    phrase = phrase.rpartition("=")[2].strip()
    return _numbers(phrase, _found(_NUMBER, phrase), 0) or phrase


def _numbers(text: str, numbers: list[re.Match[str]], place: int) -> str:
    """The number at `place` (0 or -1), with all joined to it if the choice is left open or the text is a list."""
    if not numbers:
        return ""
    run = _joined(text, numbers)[place]
    around = text[max(0, run[0].start() - 30) : run[-1].start()]
    listed = re.search(r"\band\b", around) and not text[run[-1].end() :].strip(" .!\n")
    held = run if listed or _OPEN.search(around) else [run[place]]
    return ", ".join(number[0].strip() for number in held)


def _formulas(text: str, formulas: list[re.Match[str]]) -> str:
    """The last formula, with those that are joined to it."""
    return ", ".join(next(filter(None, part.groups())).strip() for part in _joined(text, formulas)[-1])


def _joined(text: str, found: list[re.Match[str]]) -> list[list[re.Match[str]]]:
    """The matches, in groups between which there is more than a comma, "and" or "or"."""
    runs: list[list[re.Match[str]]] = []
    for match in found:
        if runs and _JOINS.fullmatch(text[runs[-1][-1].end() : match.start()]):
            runs[-1].append(match)
        else:
            runs.append([match])
    return runs


def plain(text: str) -> str:
    """An answer without units, currency and spacing commands, and with LaTeX for Unicode signs."""
    text = _UNIT.sub("", _GONE.sub("", text.translate(_SIGNS)).strip().rstrip(".").strip())
    text = re.sub(r"(?<![\\a-zA-Z])pi\b", r"\\pi", _TEXT.sub(r" \1 ", text))
    text = re.sub(r"\\frac(\\[a-z]+)", r"\\frac{\1}", text).strip()
    return text if re.search(r"[(\[]", text) else _THOUSANDS.sub(lambda held: re.sub("[{,}]", "", held[0]), text)


def equal(gold: str, candidate: str) -> bool:
    """Whether two answers are equal. Raises TimeoutError if math-verify does not finish in time.

    A candidate of more than `LONGEST` characters is never equal.
    """
    if len(candidate) > LONGEST:
        return False
    written = [gold, candidate]
    values = [plain(_PERCENT.sub("", text)) for text in written]
    if not all(values):
        return False
    pairs = zip(values, written, strict=True)
    hundredths = [rf"\frac{{{value}}}{{100}}" if _PERCENT.search(text) else value for value, text in pairs]
    return _equal(*values) or (hundredths != values and _equal(*hundredths))


def _equal(gold: str, candidate: str) -> bool:
    if gold == candidate:
        return True
    if _VERBAL.fullmatch(gold) or _VERBAL.fullmatch(candidate):
        return gold.strip("().").casefold() == candidate.strip("().").casefold()
    if _BASED.fullmatch(gold) or _BASED.fullmatch(candidate):
        return re.sub("[{}]", "", gold) == re.sub("[{}]", "", candidate)
    numbers = _number(gold), _number(candidate)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if _OPERATION.search(candidate) and not _OPERATION.search(gold):
        last = re.split(r"=(?![^{}]*\})", candidate)[-1]
        return last != candidate and _equal(gold, last.strip())
    return verified(gold, candidate)


def _number(text: str) -> Decimal | None:
    """The value of a decimal, with or without a power of ten; None for anything else."""
    power = re.compile(r"\s*\\(?:times|cdot)\s*10\s*\^\s*\{?([+-]?\d{1,3})\}?$")
    try:
        number = Decimal(power.sub(r"e\1", text.strip()).replace("_", "?"))
    except ArithmeticError:
        return None
    return number if number.is_finite() else None
