r"""The grader of mathematics: finds the final answer in an answer and compares it with the gold answer.

The final answer is, in this order:

1. the last \boxed{...}; boxes separated only by blanks, commas, "and" or "or" form one list
2. the last phrase after "the (final) answer is", "Answer:" or "####" that has a number or formula, else the last phrase
3. the last formula between dollar signs or \( \), or the last number, whichever comes later

In a phrase of rule 2, the answer is the number after the last "is" or "equals", else the last formula, else the first
number after the last equals sign. What a text denies ("not 4") never counts. In "one of 1, 2 or 3" all three count. A
calculation copied from the prompt ("17 \times 23") is not an answer. A gold answer may be a worked solution of GSM8K:
the part after #### counts.

math-verify (Hugging Face) compares the answers (`verify_equal`). Rules of MATH, GSM8K and AIME that it does not know
are applied first (`scripts/measure_graders.py` measures both):

- units and currency are ignored
- a percentage equals its number or a hundredth of it
- decimals are compared exactly, words as words, numerals of other bases together with their base
- lists must have the same number of members
- brackets decide whether an interval is open or closed; a union may be written as inequalities
- a decimal that repeats equals its fraction; other dots after a decimal are nothing, as in math-verify: "3.14..." is
  3.14, and neither 3.14159 nor pi
- a single dot is a decimal point: "1.000" is 1, and "1.000.000", "1 000 000" and "1,000,000" are a million
- an integral or sum that is not worked out is not an answer
"""

import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing import connection

from alttrain.evaluation.grading.final_answer import LONGEST, Grader, boxed_answer, is_denied, stated_answers
from alttrain.records import Generation, Judgement

MEMORY = 4 << 30  # bytes of the process that runs math-verify
SECONDS = 20.0
"""Time limit for one pair. math-verify's own limits of 5 s are off, since they silently count a pair as unequal."""
_LOCK = threading.Lock()

# for the answer that is found
_FORMULA = re.compile(
    rf"\\\[(.{{1,{LONGEST}}}?)\\\]|\\\((.{{1,{LONGEST}}}?)\\\)|\$\$(.{{1,{LONGEST}}}?)\$\$"
    r"|(?<![\\\d])\$(?=[^\s$])((?:\\\$|[^$\n])*?[^\s$\\])\$(?!\d)",
    re.S,
)
_GROUPS = r"(?:,\d{3})+|(?:[\u00a0\u2009\u202f]\d{3})+|(?: 0\d\d)(?: \d{3})*|(?:\.\d{3}){2,}"
"""What follows a thousand: after a plain blank, "100" may be a number of its own, but "000" is not."""
_NUMBER = re.compile(
    rf"(?<![\w.])[-−]?\\?[$€£¥]?\s?[-−]?(?:\d{{1,3}}(?:{_GROUPS})(?!\d)|\d+)?"
    r"(?:\.\d+(?:(?:\.{3}|…)(?!\s*[-−\d$]))?|(?<=\d))"
    r"(?:\s*/\s*\d[\d,]*)?(?:\s*\\?%|\s*percent\b)?"
)
_NAMED = re.compile(rf"\b(?:is|are|equals)\s+(?:(?:exactly|approximately|about)\s+)?({_NUMBER.pattern})")
_BARE = re.compile(r"[^\W\d_]{3,}")  # a word, not a variable
_FUNCTIONS = re.compile(
    r"\\(?:begin|end|text|mbox|mathrm|textbf)\s*\{[^}]*\}|\\[a-zA-Z]+|\b(?:sqrt|sin|cos|tan|cot|log|pi|and)\b"
)
_JOINS = re.compile(r"\s*(?:(?:,|;|\band|\bor|\.\.\.|…|maybe|perhaps|possibly|it is|\.(?=\s+[Oo]r)|Or)\s*){1,5}")
_OPEN = re.compile(r"\b(?:or|one of|either|between|maybe|perhaps|possibly)\b|\.\.\.|…", re.I)  # leaves the choice open
_LIST = re.compile(r"[\s,;|/(){}\[\].]*")  # what is between the numbers of a list

# for answers that are compared: how they are written, then what kind they are of
_SPACING = re.compile(r"\\(?:left|right|displaystyle|[,;! ])|[\s{}]|(?<=\\)[dtc](?=frac|binom)")
_BLANKS = re.compile(r"\s+(?!\w)|(?<!\w)\s+")  # that divide nothing
_TIMES = re.compile(r"\\times|×|\*")
_COMMANDS = [
    r"\pi", r"\approx", r"\infty", r"\sqrt", r"\times", r"\cdot", r"\pm", r"\le", r"\ge", r"\cup", r"\in", r"\emptyset",
]  # fmt: skip
_SIGNS = str.maketrans(
    dict(zip("−–，（）＝½²³", ["-", "-", ",", "(", ")", "=", r"\frac{1}{2}", "^2", "^3"], strict=True))
    | dict(zip("π≈∞√×·±≤≥∪∈∅", (f"{command} " for command in _COMMANDS), strict=True))
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
_SCALE = re.compile(r"\b(?:hundred|thousand|[mb]illion|dozen|squared|cubed)\b")  # words that change a number
_THOUSANDS = re.compile(
    r"(?<![\d.])\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)"
    r"|(?<![\w.^_])\d{1,3}(?:(?:[ \u00a0\u2009\u202f]\d{3})+|(?:\.\d{3}){2,})(?!\d)"
)
_ORDINAL = re.compile(r"(?<=\d)(?:\s*\^\s*)?(?:\{\s*(?:st|nd|rd|th)\s*\}|(?:st|nd|rd|th)\b)")
_PERCENT = re.compile(r"\\?%|\s*\bpercent\b")
_REPEATING = re.compile(
    r"(\d{0,20})\.(\d{0,20}?)(?:\\dot\s*\{?(\d)\}?(\d{0,18})\\dot\s*\{?(\d)\}?|\\(?:overline|bar|dot)\s*\{?(\d{1,20})\}?"
    r"|(?:(\d)\7\7+|(\d{2,20}?)\8+)(?:\.{3}|…|\\[lc]?dots\b))"
)
_NAME = re.compile(
    r"^(?:(?:\([a-z](?:\s*,\s*[a-z])*\)|[a-zA-Z](?:\([a-z]\))?(?=[^,;]*$)(?!.*(?:and|or)\b))\s*="
    r"|[a-zA-Z](?:\([a-z]\))?\s*\\in(?![a-zA-Z]))\s*",
    re.S,
)
_OPERATOR = re.compile(r"\\(?!frac|left|right|text|pi|circ)[a-zA-Z]+|[!|^+*×]|(?<=[\w)}])-")  # of a calculation
_VERBAL = re.compile(r"\(?[A-Z]\)?|[^\W\d_]{3,}|[^\W\d_]{2,}(?:[\s'’.-]+[^\W\d_]+)+")  # not "ab", a product
_POWER = re.compile(r"\s*\\(?:times|cdot)\s*10\s*\^\s*\{?([+-]?\d{1,3})\}?$")
_BASED = re.compile(r"\d+_\{?\d+\}?")
_BRACKETED = re.compile(r"([(\[])[^()\[\]]*,[^()\[\]]*([)\]])")
_SEPARATOR = re.compile(r"[,;]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_RELATION = re.compile(r"[<>]|\\[lg](?:eq?|t)(?![a-z])")
_OPERATION = re.compile(r"\\(?:i*int|oint|sum|prod|lim)(?![a-z])|\\frac\s*\{d\}")  # that is still to be worked out


@dataclass(frozen=True)
class Maths(Grader):
    """Right if the final answer equals the gold answer; the module docstring says what equal means."""

    name: str = "maths"

    def golds_of(self, generation: Generation) -> list[str]:
        return [*filter(None, map(gold_answer, generation.gold))]

    def grade(self, generation: Generation, golds: Sequence[str]) -> Judgement:
        """Undecided, with an error, also if math-verify times out."""
        answer = written_answer(generation.answer)
        try:
            unlike = (gold for gold in golds if not _copied(answer, gold, generation.prompt))
            right = bool(answer) and any(equal(gold, answer) for gold in unlike)
        except TimeoutError as error:
            return Judgement(generation.id, self.name, None, answer, error=str(error))
        return Judgement(generation.id, self.name, right, answer or "no final answer found")


def _copied(answer: str, gold: str, prompt: str) -> bool:
    """Whether an answer is a calculation copied from the prompt and differs from the gold answer as written."""
    answer, gold, prompt = (_SPACING.sub("", _TIMES.sub(r"\\cdot", text)) for text in (answer, gold, prompt))
    return answer in prompt and answer != gold and bool(_OPERATOR.search(answer))


def gold_answer(gold: str) -> str:
    """The gold answer; if it contains ####, the part after it."""
    return gold.rpartition("####")[2].strip()


def written_answer(answer: str) -> str:
    """The final answer as written, or "" if no rule finds one."""
    if box := boxed_answer(answer):
        return box
    if phrases := stated_answers(answer):
        telling = [phrase for phrase in phrases if re.search(r"[\d$\\]", phrase)]
        return _answer_in_phrase((telling or phrases)[-1])
    plain = answer.replace("**", "")
    formulas, numbers = _not_denied(_FORMULA, plain), _not_denied(_NUMBER, plain)
    if len(numbers) > 1 and not formulas and _LIST.fullmatch(_NUMBER.sub("", plain)):
        return plain.strip() if re.search(r"[(\[]", plain) else ", ".join(number[0].strip() for number in numbers)
    if formulas and (not numbers or formulas[-1].end() >= numbers[-1].end()):
        return _formulas(plain, formulas)
    return _numbers(plain, numbers, -1)


def _not_denied(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    return [match for match in pattern.finditer(text) if not is_denied(text, *match.span())]


def _answer_in_phrase(phrase: str) -> str:
    if formulas := _not_denied(_FORMULA, phrase):
        number = _NAMED.search(phrase[formulas[-1].end() :])
        return number[1].strip() if number else _formulas(phrase, formulas)
    phrase = re.sub(r"(?<!\.)[.。]$", "", phrase.strip()).strip(" *`")  # not the dots of 0.333...
    symbols = _FUNCTIONS.sub("", phrase)
    if not _BARE.search(symbols) and ("=" not in symbols or re.search(r"[a-zA-Z]", symbols)):
        return phrase  # a formula or an equation without dollar signs
    phrase = phrase.rpartition("=")[2].strip()
    return _numbers(phrase, _not_denied(_NUMBER, phrase), 0) or phrase


def _joined(text: str, found: list[re.Match[str]], position: int) -> list[re.Match[str]]:
    """The match at `position` (0 or -1), with all that commas, "and" or "or" join to it."""
    runs: list[list[re.Match[str]]] = [[]]
    for match in found:
        if runs[-1] and not _JOINS.fullmatch(text[runs[-1][-1].end() : match.start()]):
            runs.append([])
        runs[-1].append(match)
    return runs[position]


def _numbers(text: str, numbers: list[re.Match[str]], position: int) -> str:
    """The number at `position`, with all joined to it if the choice is left open or the text is a list."""
    if not (run := _joined(text, numbers, position)):
        return ""
    context = text[max(0, run[0].start() - 30) : run[-1].start()]
    listed = re.search(r"\band\b", context) and not text[run[-1].end() :].strip(" .!\n")
    chosen = run if listed or _OPEN.search(context) else [run[position]]
    return ", ".join(number[0].strip() for number in chosen)


def _formulas(text: str, formulas: list[re.Match[str]]) -> str:
    """The last formula, with all joined to it. Of a chain of equalities alone it is the last side."""
    *others, last = _joined(text, formulas, -1)
    joined = ", ".join(next(group for group in part.groups() if group).strip() for part in (*others, last))
    if others:
        return joined
    if len(sides := re.split(r"(?<![<>\\!])=", joined)) > 2:  # a single equation stays whole
        joined = sides[-1].strip()
    percent = re.match(r"\s*(?:\\?%|percent\b)", text[last.end() : last.end() + 20])
    return f"{joined}\\%" if percent else joined


def plain_answer(text: str) -> str:
    """An answer without units, currency and spacing commands, and with LaTeX for Unicode signs."""
    text = _REPEATING.sub(_as_fraction, text.translate(_SIGNS).replace(r"\varnothing", r"\emptyset"))
    if not _SCALE.search(text):
        text = re.sub(rf"\A\s*{_TEXT.pattern}\s*\Z", r"\1", text)  # its unit is to be seen
    text = re.sub(r",\s*\\!\s*", ",", re.sub(r"\\[dtc]frac", r"\\frac", text))
    text = _UNIT.sub("", _GONE.sub("", text).strip().rstrip(".\\").strip())
    text = re.sub(r"^(?:[= ]|\\approx(?![a-zA-Z]))+", "", text)
    text = re.sub(r"(?<![\\a-zA-Z])pi\b", r"\\pi", _ORDINAL.sub("", _TEXT.sub(r" \1 ", text)))
    text = re.sub(r"(\d) +(\d+)/(\d+)", r"\1\\frac{\2}{\3}", re.sub(r"\\frac(\\[a-z]+)", r"\\frac{\1}", text)).strip()
    return (
        text if re.search(r"[(\[]", text) else _THOUSANDS.sub(lambda number: re.sub(r"[{,}.\s]", "", number[0]), text)
    )


def _as_fraction(decimal: re.Match[str]) -> str:
    r"""A decimal that repeats, such as 0.1\overline{6} or 0.1666..., as a fraction."""
    whole, once, *repeated = decimal.groups()
    block = "".join(filter(None, repeated))
    nines = 10 ** len(block) - 1
    return rf"\frac{{{int(f'0{whole}{once}') * nines + int(block)}}}{{{nines * 10 ** len(once)}}}"


def equal(gold: str, candidate: str) -> bool:
    """Whether two answers are equal. Raises TimeoutError if math-verify does not finish in time.

    A candidate of more than `LONGEST` characters is never equal.
    """
    if len(candidate) > LONGEST:
        return False
    written = [gold, candidate]
    values = [plain_answer(_PERCENT.sub("", text)) for text in written]
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
    if _BLANKS.sub("", gold) == _BLANKS.sub("", candidate):
        return True
    if gold.isalpha() and gold.casefold() == candidate.casefold():
        return True
    if _VERBAL.fullmatch(gold) or _VERBAL.fullmatch(candidate):
        return gold.strip("().").casefold() == candidate.strip("().").casefold()
    if _BASED.fullmatch(gold) or _BASED.fullmatch(candidate):
        return re.sub("[{}]", "", gold) == re.sub("[{}]", "", candidate)
    values = _number(gold), _number(candidate)
    if None not in values:
        return values[0] == values[1]
    if _OPERATION.search(candidate) and not _OPERATION.search(gold):
        last_side = re.split(r"=(?![^{}]*\})", candidate)[-1]
        return last_side != candidate and _equal(gold, last_side.strip())
    if r"\cup" in gold + candidate and _RELATION.search(gold + candidate):  # "x < 2 or x > 3" and its intervals
        union, ranges = sorted((gold, candidate), key=lambda text: r"\cup" not in text)
        intervals, bounds = union.split(r"\cup"), _members(ranges)
        return len(intervals) == len(bounds) and all(any(_equal(i, b) for b in bounds) for i in intervals)
    brackets = _BRACKETED.fullmatch(gold), _BRACKETED.fullmatch(candidate)
    if brackets[0] and (brackets[0].groups() != brackets[1].groups() if brackets[1] else "," in candidate):
        return False
    members = _members(gold), _members(candidate)
    if len(members[0]) != len(members[1]) and r"\pm" not in gold + candidate:
        return len(members[0]) == 1 and all(_equal(gold, member) for member in members[1])
    numbers = [Counter(map(_number, side)) for side in members]
    if not any(None in side for side in numbers):  # to math-verify a list is a set: "10, 10, 20" equals "10, 20, 20"
        return numbers[0] == numbers[1]
    return verify_equal(gold, candidate)


def _number(text: str) -> Decimal | None:
    """The value of a decimal, with or without a power of ten; None for anything else."""
    try:
        number = Decimal(_POWER.sub(r"e\1", text.strip()).replace("_", "?"))
    except ArithmeticError:
        return None
    return number if number.is_finite() else None


def _members(text: str) -> list[str]:
    """The members of a list, with or without the braces of a set. A text with other brackets is one member."""
    inner = text.removeprefix(r"\{").removesuffix(r"\}")
    if re.search(r"[(\[]|\\begin", inner):
        return [text]
    return [member.strip() for member in _SEPARATOR.split(inner) if member.strip()]


def verify_equal(gold: str, candidate: str) -> bool:
    """Whether two LaTeX expressions are equal, by math-verify in a process of its own, one pair at a time.

    Raises TimeoutError after `SECONDS`; the next pair has a new process. math-verify's own timeouts are signals, which
    fail outside the main thread and cannot stop an operation on big integers. A process can be stopped from any thread,
    and its memory can be limited. It is this module, run; it starts with the first pair (about a second), ends with its
    input, and gets and gives one JSON line a pair: [gold, candidate] -> whether they are equal.
    """
    with _LOCK:
        if _process().poll() is not None:  # killed for its memory, or by somebody
            _process.cache_clear()
        process = _process()
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError):  # then it gives no line
            process.stdin.write(json.dumps([gold, candidate]).encode() + b"\n")
            process.stdin.flush()
        ready = connection.wait([process.stdout.fileno()], SECONDS)
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            process.communicate()
            _process.cache_clear()
            raise TimeoutError(f"math-verify did not finish {candidate[:80]!r} against {gold[:80]!r}")
        return json.loads(line) is True


@functools.cache
def _process() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def _answer_questions() -> None:
    import resource

    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # math-verify's list of units is off: it has letters that may be variables ("2s", "2h").
    notation = NormalizationConfig(units=False, malformed_operators=True, nits=True)
    plain = LatexExtractionConfig(normalization_config=notation)

    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr  # keep prints of libraries out of the reply pipe
    for line in sys.stdin:
        gold, candidate = (parse(f"${text}$", [plain], parsing_timeout=None) for text in json.loads(line))
        same = verify(gold, candidate, allow_set_relation_comp=True, timeout_seconds=None)
        print(json.dumps(bool(same)), file=replies, flush=True)


if __name__ == "__main__":
    _answer_questions()
