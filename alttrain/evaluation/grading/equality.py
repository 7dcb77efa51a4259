r"""Are two mathematical answers equal, as MATH, GSM8K and AIME count it?

math-verify compares. Here is only what it does not know (`scripts/measure_graders.py` measures both): units and
currency count for nothing; a percentage is its number, or its hundredth; decimals are compared exactly, words as
words, numerals of other bases with their base; a list has as many members as the other; brackets say what is in an
interval; and an integral or a sum that nobody has worked out is the question, not its answer.
"""

import re
from decimal import Decimal

from alttrain.evaluation.grading.verifier import verifier

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
_WORDS = re.compile(r"\(?[A-Z]\)?|[^\W\d_]{2,}(?:[\s'’.-]+[^\W\d_]+)*")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)")
_PERCENT = re.compile(r"\\?%|\s*\bpercent\b")
_NAME = re.compile(r"^(?:\([a-z](?:\s*,\s*[a-z])*\)|[a-zA-Z](?:\([a-z]\))?(?=[^,;]*$)(?!.*(?:and|or)\b))\s*=\s*", re.S)
_POWER = re.compile(r"\s*\\(?:times|cdot)\s*10\s*\^\s*\{?([+-]?\d{1,3})\}?$")
_BASED = re.compile(r"\d+_\{?\d+\}?")
_BRACKETED = re.compile(r"([(\[])[^()\[\]]*,[^()\[\]]*([)\]])")
_SEPARATOR = re.compile(r"[,;]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_OPERATION = re.compile(r"\\(?:i*int|oint|sum|prod|lim)(?![a-z])|\\frac\s*\{d\}")
LONGEST = 1000
"""Characters of an answer that is compared at all; one that runs on for longer is no answer to these benchmarks."""


def plain(text: str) -> str:
    """An answer without units, currency, spacing commands and signs that LaTeX does not know."""
    text = re.sub(r",\s*\\!\s*", ",", re.sub(r"\\[dtc]frac", r"\\frac", text.translate(_SIGNS)))
    text = _UNIT.sub("", _GONE.sub("", text).strip().rstrip(".").strip())
    text = re.sub(r"(?<![\\a-zA-Z])pi\b", r"\\pi", _TEXT.sub(r" \1 ", text))
    text = re.sub(r"(\d) +(\d+)/(\d+)", r"\1\\frac{\2}{\3}", re.sub(r"\\frac(\\[a-z]+)", r"\\frac{\1}", text)).strip()
    return text if re.search(r"[(\[]", text) else _THOUSANDS.sub(lambda held: re.sub("[{,}]", "", held[0]), text)


def equal(gold: str, candidate: str) -> bool:
    """Whether two answers are equal. Raises TimeoutError where math-verify cannot tell in time."""
    if len(candidate) > LONGEST:
        return False
    written = [gold, candidate]
    values = [plain(_PERCENT.sub("", text)) for text in written]
    if not all(values):
        return False
    if len({value for side in values[1].split("=") if (value := _number(side)) is not None}) > 1:
        return False  # "3 = 4"
    if "=" not in gold:
        values[1] = _NAME.sub("", values[1])
    if _equal(*values):
        return True
    hundredths = [
        rf"\frac{{{value}}}{{100}}" if _PERCENT.search(text) else value
        for value, text in zip(values, written, strict=True)
    ]
    return hundredths != values and _equal(*hundredths)


def _equal(gold: str, candidate: str) -> bool:
    if gold == candidate:
        return True
    if _WORDS.fullmatch(gold) or _WORDS.fullmatch(candidate):
        return gold.strip("().").casefold() == candidate.strip("().").casefold()
    if _BASED.fullmatch(gold) or _BASED.fullmatch(candidate):
        return re.sub("[{}]", "", gold) == re.sub("[{}]", "", candidate)
    numbers = _number(gold), _number(candidate)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if _OPERATION.search(candidate) and not _OPERATION.search(gold):
        last = re.split(r"=(?![^{}]*\})", candidate)[-1]
        return last != candidate and _equal(gold, last.strip())
    brackets = _BRACKETED.fullmatch(gold), _BRACKETED.fullmatch(candidate)
    if brackets[0] and (brackets[0].groups() != brackets[1].groups() if brackets[1] else "," in candidate):
        return False
    members = _members(gold), _members(candidate)
    if len(members[0]) != len(members[1]) and r"\pm" not in gold + candidate:
        return len(members[0]) == 1 and all(_equal(gold, member) for member in members[1])
    return verifier().equal(gold, candidate)


def _number(text: str) -> Decimal | None:
    """A decimal, also times a power of ten; None for anything else."""
    try:
        number = Decimal(_POWER.sub(r"e\1", text.strip()).replace("_", "?"))
    except ArithmeticError:
        return None
    return number if number.is_finite() else None


def _members(text: str) -> list[str]:
    """The members of a list, with or without the braces of a set; all of a text that holds other brackets."""
    inner = text.removeprefix(r"\{").removesuffix(r"\}")
    if re.search(r"[(\[]|\\begin", inner):
        return [text]
    return [member.strip() for member in _SEPARATOR.split(inner) if member.strip()]
