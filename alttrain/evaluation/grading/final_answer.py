"""What graders share: the final answer in a text (the last box, what follows "the answer is"), and what it denies."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from alttrain.evaluation.judges.judge import RowJudge
from alttrain.records import Generation, Judgement

NO_ANSWER = "no answer"
LONGEST = 1000  # characters read of a phrase or formula; bounds the time for an answer that repeats itself
FONT = r"\\(?:text(?:bf|it|rm)?|math(?:bf|it|rm)|mbox|rm|bf)\b\s*"  # a LaTeX command that does not change an answer
_MARKS_READ = 200
"""Phrases such as "the answer is" that are read, from the last; bounds the time, as long blanks may follow each."""
_BOX = re.compile(r"\\(?:boxed|fbox)\s*+(?:\{|(\w+))")
_BETWEEN = re.compile(r"\\(?:text|mbox)\s*\{|\\(?:quad|[()\[\],; ])|[{}$]|\b[a-zA-Z]\s*=")
_JOINT = re.compile(r"\s*(?:[,;/|]?|[,;]?\s*(?:and|or|\\lor|\\vee))\s*")
_MARK = re.compile(
    r"#{4,}|(?a:\b)(?:final\s+)?answer(?a:\b)(?:[^.:\n=]{0,60}?\b(?:is|are)\b(?:\s*[:：])?|\s*[:：=]|[ \t]*$)"
    r"|答案(?:\s*+(?:[是为][:：]?|[:：])|[ \t]*+$)",
    re.I | re.M,
)
_PHRASE = re.compile(rf"[\s:：#]*+(\\\[.{{0,{LONGEST}}}?\\\]|\$\$.{{0,{LONGEST}}}?\$\$|[^\n]{{1,{LONGEST}}})", re.S)

_WRONG = re.compile(r"\b(?:wrong|incorrect|false) $", re.I)
_DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|except|hardly|far from|rather than|instead of|other than|is it|"
    r"was it|(?:any|every)thing but|all but|(?<!no )(?<!without )doubt|(?:wrong|incorrect|false)(?: answer| to say)?)"
    r"|n['’]t|\\neq?\b|≠"
    r"|(?:[不勿未]|没有?|(?<!南)非|(?<![㐀-鿿])别|排除)(?:应该?|应当|该|能够?|要|可能?|可以|会|必|一定|是|为|等于|选择?)*)"
    r"(?:[^\S\n]+(?:an?|the|in|by|of|be|been|is|was|it|that|to|called|equals?|really|actually|exactly|answer))*"
    r"[ $*({\[\"']*$",
    re.I,
)
_TAKEN_BACK = re.compile(
    r"[\"'”’*)\]}$]{0,4}(?:\s(?:is|was|are)(?:(?: not|n['’]t)(?: (?:it|the|correct|right|true)\b|\s*[.,!]|$)"
    r"| (?:wrong|incorrect|false|out)\b)|\sain['’]t\b"
    r"|\sdoes(?: not|n['’]t) (?:apply|count|fit)\b|\s?[-–—:,.]\s*(?:wrong|incorrect|false|no)\b(?=\s*(?:[.!]|$))"
    r"|\?\s*(?:no|nope|not)\b|!\s*not\b|\sor not\b"
    r"|\s*(?:选?项)?\s*[:：]?(?:[也都均是为就的]|说法|显然|明显)*(?:错|不(?:正确|对|成立|符合|可能|[能可]?选|行)"
    r"|不是(?!\s*[A-Z\d])|吗[?？]?(?!\s*[是对])))",
    re.I,
)


@dataclass(frozen=True, kw_only=True)
class Grader(RowJudge):
    """A judge that compares the answer, never the thought, with the row's gold texts. Subclasses define `grade`.

    A generation without an answer is wrong (evidence "no answer"). A row is undecided, with an error, if it has no gold
    text that an answer can be compared with, or if `golds_of` or `grade` raises ValueError.
    """

    says: Literal["correct"] = "correct"
    needs_gold = True
    golds: ClassVar[Sequence[str]] = ()
    """What the gold texts of a row are, if it needs all of them; without names each of them is a right answer."""
    missing: ClassVar[tuple[bool | None, float | None]] = (False, None)
    """Verdict and value of a missing answer."""

    def __call__(self, generation: Generation) -> Judgement:
        try:
            if not (golds := self.golds_of(generation)):
                raise ValueError("the row has no gold answer")
            if not generation.answer.strip():
                verdict, value = self.missing
                return Judgement(generation.id, self.name, verdict, NO_ANSWER, value=value)
            return self.grade(generation, golds)
        except ValueError as error:
            return Judgement(generation.id, self.name, None, error=str(error))

    def golds_of(self, generation: Generation) -> list[str]:
        """The gold texts to compare with. Raises ValueError if they are not those that `golds` names."""
        if self.golds and generation.gold and len(generation.gold) != len(self.golds):
            expected = f"expected {', '.join(self.golds[:-1])} and {self.golds[-1]}"
            raise ValueError(f"the row has {len(generation.gold)} gold texts; {expected}")
        return [gold for gold in generation.gold if self.golds or gold.strip()]

    @abstractmethod
    def grade(self, generation: Generation, golds: Sequence[str]) -> Judgement:
        """Grade an answer that is there. Raises ValueError if the row is at fault."""


def is_denied(text: str, start: int, end: int) -> bool:
    """Whether a text denies text[start:end], or takes it back."""
    return bool(_DENIED.search(text, max(0, start - 60), start) or _TAKEN_BACK.match(text, end))


def boxed_answer(text: str) -> str | None:
    r"""The content of the last \boxed{...}, or None. Boxes separated only by commas, "or" or blanks form one list."""
    return box[0] if (box := last_box(text)) else None


def last_box(text: str) -> tuple[str, int] | None:
    """What `boxed_answer` gives, and the position after the box."""
    closing = _closing_braces(text)
    contents: dict[str, None] = {}
    end = 0
    for box in _BOX.finditer(text):
        close = box.end() - 1 if box[1] else closing.get(box.end() - 1)
        if box.start() < end or close is None:
            continue  # a box in a box, or one without its end
        content = box[1] or text[box.end() : close].strip()
        gap = text[end : box.start()]
        joined = bool(contents) and box.start() - end < 80 and bool(_JOINT.fullmatch(_BETWEEN.sub(" ", gap)))
        contents = contents if joined else {}
        contents[content] = None
        end = close + 1
    return (", ".join(contents), end) if contents else None


def _closing_braces(text: str) -> dict[int, int]:
    """Position of each opening brace -> position of its closing brace."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for brace in re.finditer(r"\\.|[{}]", text, re.S):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def stated_answers(text: str) -> list[str]:
    """The phrases after "(final) answer is", "Answer:", "####" or 答案, each to the end of its line or display."""
    plain = text.replace("**", "").replace("__", "")
    marks = list(_MARK.finditer(plain))[-_MARKS_READ:]
    ends = (mark.end() for mark in marks if not _WRONG.search(plain, max(0, mark.start() - 20), mark.start()))
    return [phrase[1].strip() for end in ends if (phrase := _PHRASE.match(plain, end))]
