r"""Are two mathematical answers equal, as MATH, GSM8K and AIME count it?

Notation is brought to one form first (`normalise`). Then, in this order: equal texts; numbers exactly, as fractions;
words as words; lists, sets, tuples, intervals, unions and matrices part by part, ordered where order means something;
what is left goes to math-verify. Units, degree and currency signs count for nothing. A percentage is its number, or its
hundredth. A decimal equals the fraction it rounds where it has six significant digits.
"""

import itertools
import re
from fractions import Fraction

from alttrain.evaluation.grading.verifier import verifier

_SIGNS = str.maketrans(
    dict(zip("−–，（）＝", "--,()=", strict=True))
    | {"°": r"^\circ", "½": r"\frac{1}{2}", "²": "^2", "³": "^3", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt "}
    | {"×": r"\times ", "·": r"\cdot ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "∈": r"\in "}
)
_GONE = re.compile(
    r"(?<!\\)\\(?:left|right|displaystyle|limits|bigl?|bigr?|Bigl?|Bigr?|qquad|quad|[!,;: ])(?![a-zA-Z])|~"
    r"|\\?[$€£¥]|\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree\b|(?<!\\)\\[()\[\]]"
)
_ARGUMENT = r"(?:\{([^{}]*)\}|(\d|[a-zA-Z]|\\[a-zA-Z]+))"
_FRACTION = re.compile(rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}")
_ROOT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf|operatorname|rm|bf)\s*\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?<=[\d}.])\s*(?:\\(?:text|mbox|mathrm|textrm)\s*\{\s*[^{}\d]*\}(?:\s*\^\s*\{?\d\}?)?"
    r"|(?:\s(?!(?:sqrt|and|base|mod|sin|cos|tan|cot|sec|csc|log)\b)[a-zA-Z]{3,}|\s?(?:cm|mm|km|kg|ml|ft|in|lb|oz|mi|hr)\b)"
    r"(?:[ ./]+[a-zA-Z]+)*(?:\s*\^\s*\{?\d\}?)?)\s*$"
)
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
_NUMBER = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:(?:e|\\times10\^|\\cdot10\^)\{?([+-]?\d{1,3})\}?)?")
_QUOTIENT = re.compile(r"([+-]?)(\d*)(?:\\frac\{([+-]?\d+(?:\.\d+)?)\}\{([+-]?\d+(?:\.\d+)?)\})")
_PLAIN_QUOTIENT = re.compile(r"([+-]?)\(?(\d+(?:\.\d+)?)\)?/\(?(\d+(?:\.\d+)?)\)?")
_ASSIGNED = re.compile(r"(?:[a-zA-Z]|[a-zA-Z]\([a-z]\))(?:=|\\in(?![a-z]))(.+)")
_BASED = re.compile(r"(\d+)_\{?(\d+)\}?")
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}")
_OPEN, _CLOSE = "([{", ")]}"
SIGNIFICANT = 6
LONGEST = 1000
"""Characters of an answer that is compared at all; one that runs on for longer is no answer to these benchmarks."""


def normalise(expression: str) -> str:
    """One notation for what is written in several; spaces only inside words."""
    text = re.sub(r",\s*\\!\s*", ",", expression.strip().replace("**", "").translate(_SIGNS))
    text = _GONE.sub("", re.sub(r"\\[dtc]frac", r"\\frac", text))
    text = text.replace(r"\lbrace", r"\{").replace(r"\rbrace", r"\}").replace(r"\leq", r"\le").replace(r"\geq", r"\ge")
    text = _UNIT.sub("", text.strip().rstrip(".").strip())
    text = _TEXT.sub(lambda held: f" {held[1]} ", text).strip()
    text = re.sub(r"\s*\b(?:degrees?|percent)$", "", text)
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text) if not re.search(r"[(\[{]", text) else text
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    while (simpler := _FRACTION.sub(_fraction, text)) != text:
        text = simpler
    text = " ".join(text.split())
    if is_words(text):
        return text
    return re.sub(r"(?<=\\)\s+|\s+(?![a-zA-Z])|(?<![a-zA-Z])\s+", "", text)


def _fraction(match: re.Match[str]) -> str:
    return f"\\frac{{{match[1] or match[2] or ''}}}{{{match[3] or match[4] or ''}}}"


def is_words(text: str) -> bool:
    """Whether a text is a word or several, or a choice letter in parentheses."""
    return bool(re.fullmatch(r"\(?[A-Z]\)?|[^\W\d_]{2,}(?:[\s'’.-]+[^\W\d_]+)*\.?", text.strip()))


def equal(gold: str, candidate: str) -> bool:
    """Whether two answers are equal. Raises TimeoutError where math-verify cannot tell in time."""
    if len(candidate) > LONGEST:
        return False
    if re.search(r"\\?%|\bpercent\b", candidate) and not re.search(r"%|\bpercent\b", gold):
        number = re.sub(r"\\?%|\s*\bpercent\b", "", candidate)
        value = rational(normalise(number))
        wanted = rational(normalise(gold))
        if value is not None and wanted is not None:
            return wanted in (value, value / 100)
        return _equal(normalise(gold), normalise(number))
    return _equal(*(normalise(re.sub(r"\\?%", "", text)) for text in (gold, candidate)))


def _equal(gold: str, candidate: str) -> bool:
    if gold == candidate:
        return bool(gold)
    if not gold or not candidate:
        return False
    if is_words(gold) or is_words(candidate):
        return gold.strip("().").casefold() == candidate.strip("().").casefold()
    based = _BASED.fullmatch(gold), _BASED.fullmatch(candidate)
    if based[0] or based[1]:
        return bool(based[0] and based[1] and based[0].groups() == based[1].groups())
    numbers = rational(gold), rational(candidate)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1] or _rounds(candidate, numbers[1], numbers[0])
    bare = [held[1] if (held := _ASSIGNED.fullmatch(text)) else text for text in (gold, candidate)]
    assigned = [text != whole for text, whole in zip(bare, (gold, candidate), strict=True)]
    if any(assigned) and (not all(assigned) or gold[0] == candidate[0]):
        return _equal(*bare)
    lists = _members(gold), _members(candidate)
    if len(lists[0]) > 1 or len(lists[1]) > 1:
        return _same_set(*lists)
    structure, other = _structure(gold), _structure(candidate)
    if structure and other:
        (kind, parts), (other_kind, other_parts) = structure, other
        if kind != other_kind or len(parts) != len(other_parts):
            return False
        return _same_set(parts, other_parts) if kind in ("set", "union") else all(map(_equal, parts, other_parts))
    if (structure or other) and not re.search(r"\\le|<|\\ge|>", candidate):
        return False  # of the rest, only an inequality can be an interval
    return verifier().equal(gold, candidate)


def rational(text: str) -> Fraction | None:
    """A normalised integer, decimal, quotient, mixed number or power of ten as an exact number, or None."""
    if match := _NUMBER.fullmatch(text):
        return _signed(match[1]) * Fraction(match[2]) * Fraction(10) ** int(match[3] or 0)
    if (match := _QUOTIENT.fullmatch(text)) and Fraction(match[4]):
        return _signed(match[1]) * (int(match[2] or 0) + Fraction(match[3]) / Fraction(match[4]))
    if (match := _PLAIN_QUOTIENT.fullmatch(text)) and Fraction(match[3]):
        return _signed(match[1]) * Fraction(match[2]) / Fraction(match[3])
    return None


def _signed(sign: str) -> int:
    return -1 if sign == "-" else 1


def _rounds(written: str, value: Fraction, exact: Fraction) -> bool:
    """Whether a decimal with enough digits is a fraction's that no decimal can equal, rounded."""
    _, _, decimals = written.partition(".")
    digits = re.sub(r"\D", "", written).lstrip("0")
    endless = exact.denominator
    for prime in (2, 5):
        while endless % prime == 0:
            endless //= prime
    return (
        bool(decimals.isdigit()) and len(digits) >= SIGNIFICANT and endless > 1 and value == round(exact, len(decimals))
    )


def _split(text: str, separators: str) -> list[str]:
    """The parts of a text between separators (a pattern) that stand outside all brackets."""
    parts, depth, start, place = [], 0, 0, 0
    separator = re.compile(separators)
    while place < len(text):
        if depth == 0 and (match := separator.match(text, place)):
            parts.append(text[start:place])
            start = place = match.end()
            continue
        depth += (text[place] in _OPEN) - (text[place] in _CLOSE)
        place += 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _members(text: str) -> list[str]:
    r"""The members of a bare list, "1, 2 and 3", with \pm as both signs."""
    members = _split(text, r",?(?:(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])),?|[,;]")
    if len(members) > 1:
        members = [held[1] if (held := _ASSIGNED.fullmatch(member)) else member for member in members]
    return [
        m
        for member in members
        for m in (
            [member.replace(r"\pm", s, 1) for s in "+-"] if r"\pm" in member and not _structure(member) else [member]
        )
    ]


def _same_set(golds: list[str], candidates: list[str]) -> bool:
    """Whether the members can be paired off, in any order; one answer may be written twice ("1/2, or 0.5")."""
    if len(golds) == 1:
        return all(_equal(golds[0], candidate) for candidate in candidates)
    left = list(candidates)
    for gold in golds:
        match = next((place for place, candidate in enumerate(left) if _equal(gold, candidate)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _structure(text: str) -> tuple[str, list[str]] | None:
    """A union, set, tuple, interval or matrix as its kind and parts, or None for any other expression."""
    pieces = _split(text, r"\\cup")
    if len(pieces) > 1:
        return "union", pieces
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "set", _members(text[2:-2])
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[2]) if row.strip()]
        kind = "det" if matrix[1].startswith(("v", "V")) else "matrix"
        return f"{kind} {len(rows)}", list(itertools.chain.from_iterable(rows))
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]":
        parts = _split(text[1:-1], ",")
        if len(parts) > 1:
            return f"{text[0]}{text[-1]}", parts
    return None
