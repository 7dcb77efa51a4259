r"""The grader of mathematics: finds the final answer in an answer, and compares it with the gold answer.

Where the answer stands, in this order:

1. the last \boxed{...}; boxes with only blanks, commas, "and" or "or" between are one list;
2. the last "the (final) answer is ...", "Answer: ...", "#### ..." whose phrase holds a number or formula (else words);
3. the last formula between dollar signs or \( \), or the last number, whichever comes later.

Of a phrase in 2, the number that it ends with "is" or "equals" counts, else its last formula, else its first number
after its last equals sign. What a text denies ("not 4") is never its answer, and of "one of 1, 2 or 3" the answer is
all three.
A calculation copied from the prompt ("17 \times 23") is no answer to it. Gold answers may be GSM8K's worked solutions:
what follows their #### counts.
"""

import re
from dataclasses import dataclass
from typing import Literal

from alttrain.evaluation.grading.equality import equal
from alttrain.evaluation.grading.extraction import LONGEST, NO_ANSWER, boxed, denied, no_gold, stated
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
_LIST = re.compile(r"[\s,;|/(){}\[\].]*")
_SPACING = re.compile(r"\\(?:left|right|displaystyle|[,;! ])|[\s{}]|(?<=\\)[dtc](?=frac|binom)")
_TIMES = re.compile(r"\\times|×|\*")
_OPERATOR = re.compile(r"\\(?!frac|left|right|text|pi|circ)[a-zA-Z]+|[!|^+*×]|(?<=[\w)}])-")


@dataclass(frozen=True)
class Maths(RowJudge):
    """Right where the final answer equals the gold answer; see `equality` for what equal means."""

    name: str = "maths"

    says: Literal["correct"] = "correct"

    def __call__(self, generation: Generation) -> Judgement:
        """Whether they are equal. Undecided, with an error, without a gold answer or where math-verify cannot tell."""
        golds = [found for gold in generation.gold if (found := gold_answer(gold))]
        if not golds:
            return no_gold(generation, self.name)
        if not generation.answer.strip():
            return Judgement(generation.id, self.name, False, NO_ANSWER)
        found = final_answer(generation.answer)
        try:
            right = bool(found) and any(
                equal(gold, found) for gold in golds if not _copied(found, gold, generation.prompt)
            )
        except TimeoutError as error:
            return Judgement(generation.id, self.name, None, found, error=str(error))
        return Judgement(generation.id, self.name, right, found or "no final answer found")


def _copied(found: str, gold: str, prompt: str) -> bool:
    """Whether an answer is a calculation that the prompt asks for, and not how the gold answer is written."""
    said, wanted, asked = (_SPACING.sub("", _TIMES.sub(r"\\cdot", text)) for text in (found, gold, prompt))
    return said in asked and said != wanted and bool(_OPERATOR.search(said))


def gold_answer(gold: str) -> str:
    """The gold answer itself: what follows #### where there is one."""
    return gold.rpartition("####")[2].strip()


def final_answer(answer: str) -> str:
    """The final answer as it is written, or nothing where no rule finds one."""
    if box := boxed(answer):
        return box
    phrases = stated(answer)
    if phrases:
        telling = [phrase for phrase in phrases if re.search(r"[\d$\\]", phrase)]
        return _of_phrase((telling or phrases)[-1])
    plain = answer.replace("**", "")
    formulas, numbers = _found(_FORMULA, plain), _found(_NUMBER, plain)
    if len(numbers) > 1 and not formulas and _LIST.fullmatch(_NUMBER.sub("", plain)):
        return plain.strip() if re.search(r"[(\[]", plain) else ", ".join(number[0].strip() for number in numbers)
    if formulas and (not numbers or formulas[-1].end() >= numbers[-1].end()):
        return _formulas(plain, formulas)
    return _numbers(plain, numbers, -1)


def _found(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Where a pattern stands in a text that does not deny it."""
    return [found for found in pattern.finditer(text) if not denied(text, *found.span())]


def _of_phrase(phrase: str) -> str:
    """The answer in a phrase."""
    formulas = _found(_FORMULA, phrase)
    if formulas:
        rest = phrase[formulas[-1].end() :]
        named = _NAMED.search(rest)
        return named[1].strip() if named else _formulas(phrase, formulas)
    phrase = phrase.strip().rstrip(".。").strip(" *`")
    symbols = _FUNCTIONS.sub("", phrase)
    if not _BARE.search(symbols) and ("=" not in symbols or re.search(r"[a-zA-Z]", symbols)):
        return phrase  # a formula, or an equation in letters, without signs around it
    phrase = phrase.rpartition("=")[2].strip()
    return _numbers(phrase, _found(_NUMBER, phrase), 0) or phrase


def _numbers(text: str, numbers: list[re.Match[str]], place: int) -> str:
    """The first or last number; all joined to it where they leave open which it is or end the text."""
    runs: list[list[re.Match[str]]] = []
    for number in numbers:
        if runs and _JOINS.fullmatch(text[runs[-1][-1].end() : number.start()]):
            runs[-1].append(number)
        else:
            runs.append([number])
    if not runs:
        return ""
    run = runs[place]
    around = text[max(0, run[0].start() - 30) : run[-1].start()]
    listed = re.search(r"\band\b", around) and not text[run[-1].end() :].strip(" .!\n")
    held = run if listed or _OPEN.search(around) else [run[place]]
    return ", ".join(number[0].strip() for number in held)


def _formulas(text: str, formulas: list[re.Match[str]]) -> str:
    """The last formula, with those before it that only commas, "and" or "or" join to it."""
    parts = [formulas[-1]]
    for formula in reversed(formulas[:-1]):
        if not _JOINS.fullmatch(text[formula.end() : parts[-1].start()]):
            break
        parts.append(formula)
    held = ", ".join(next(group for group in part.groups() if group).strip() for part in reversed(parts))
    if len(parts) > 1:
        return held
    percent = re.match(r"\s*(?:\\?%|percent\b)", text[parts[0].end() : parts[0].end() + 20])
    return f"{_after_equals(held)}\\%" if percent else _after_equals(held)


def _after_equals(formula: str) -> str:
    """The right side of a chain of equalities; an equation or a lone variable's value stays whole."""
    sides = re.split(r"(?<![<>\\!])=", formula)
    return sides[-1].strip() if len(sides) > 2 else formula
