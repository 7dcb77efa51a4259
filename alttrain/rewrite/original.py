"""Original traces and answers, written by the untrained backbone where the dataset has none."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Gt, Le

from alttrain.english import sentences
from alttrain.english.refusal import judge_refusal
from alttrain.records import Example, Rejected, Segment
from alttrain.rewrite.parser import render

SLOT = "{prompt}"  # the placeholder for the user's message in a form
CUT = "the backbone's answer did not end within the cap"
THOUGHT_CUT = "the backbone's thought did not end within the cap"

_ENDED = re.compile(r"[.!?…][\"'”’)\]*_]*\Z")
_END_MARK = re.compile(r"(?<!\d)[.!?][\"'”’)]*(?=\s|$)")
_NUMBERED = re.compile(r"\W*(?:\d{1,3}|[A-Za-z])[.)]")


@dataclass(frozen=True)
class Original:
    """The backbone's reply to one prompt."""

    thought: str
    answer: str
    ended: bool  # whether it stopped by itself
    closed: bool = True  # whether its thought closed within the token limit


@dataclass(frozen=True)
class SelfTrace:
    """How the untrained backbone is asked for the trace and answer of a prompt.

    A reasoning backbone writes both. A backbone without reasoning writes only an answer; its trace is then `opening`.
    Raises ValueError unless `harmful_form` contains {prompt} exactly once.
    """

    tokens: Annotated[int, Gt(0)]  # limit on new tokens; longer answers are dropped
    opening: str = ""
    system_prompt: str | None = None
    keep_sentences: bool = False  # cut an answer that is too long after its last complete sentence
    keep_refusals: bool = False  # of benign prompts, which are otherwise dropped
    temperature: Annotated[float, Ge(0)] = 0.0  # 0 is greedy
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    top_k: Annotated[int, Gt(0)] | None = None
    harmful_form: str = SLOT  # in which harmful prompts are asked
    chunk: Annotated[int, Gt(0)] | None = None  # prompts stored together, so that a kill loses one chunk; None: all

    def __post_init__(self) -> None:
        if self.harmful_form.count(SLOT) != 1:
            raise ValueError(
                f"rewrite.original.harmful_form must hold {SLOT} exactly once, found {self.harmful_form!r}"
            )

    def message(self, example: Example) -> str:
        """Return the user's message as it is sent to the backbone."""
        return self.harmful_form.replace(SLOT, example.prompt) if example.label == "harmful" else example.prompt


def original_for(untrained_thought: str, reasoning: SelfTrace, short: SelfTrace) -> SelfTrace:
    """Return `reasoning` if the backbone reasons by itself (`untrained_thought` is "open"), otherwise `short`."""
    return reasoning if untrained_thought == "open" else short


def whole_sentences(answer: str) -> str:
    """Return an answer up to its last complete sentence; "" if there is none, or if a code block stays open."""
    answer = re.sub(r"\d\.\Z", "", answer.rstrip())  # the limit may have cut a decimal number at its point
    ends = [end for start, end in sentences(answer) if _is_complete(answer[start:end])]
    ends = ends or [mark.end() for mark in _END_MARK.finditer(answer)]  # as in "Dr. Smith is here. ok"
    complete = answer[: ends[-1]].strip() if ends else ""
    return "" if complete.count("```") % 2 or _NUMBERED.fullmatch(complete) else complete


def _is_complete(sentence: str) -> bool:
    """Return whether a sentence ends with an end mark and is more than a list number."""
    return bool(_ENDED.search(sentence)) and not _NUMBERED.fullmatch(sentence)


def trace_hash(example: Example) -> str:
    """Return the hash of an example's thought and answer, for `Example.trace_hash`; "" if it has neither."""
    if not example.thought and not example.answer:
        return ""
    original = json.dumps([render(example.thought), example.answer], ensure_ascii=False)
    return hashlib.sha256(original.encode()).hexdigest()[:16]


def with_original(
    example: Example, original: Original, recipe: SelfTrace, origin: str = "backbone"
) -> Example | Rejected:
    """Return the example with the backbone's thought and answer, or why they cannot be used.

    With `recipe.keep_sentences`, an answer that did not end is used up to its last complete sentence. `origin` is the
    origin of the thought; it is "trace:backbone" if the backbone reasoned by itself. A refusal is found by the packaged
    judge of refusals.
    """
    answer = usable = original.answer.strip()
    if not original.ended:
        usable = whole_sentences(answer) if recipe.keep_sentences else ""
    drops_refusals = example.label == "benign" and not recipe.keep_refusals
    faults = {
        THOUGHT_CUT: not original.closed,
        "the backbone's answer is empty": not answer,
        CUT: not usable,
        "the backbone wrote no thought": not original.thought.strip(),
        "the backbone refused a benign prompt": drops_refusals and judge_refusal(usable, example.prompt),
    }
    if fault := next((fault for fault, applies in faults.items() if applies), ""):
        return Rejected(example.id, fault)
    return replace(example, thought=(Segment("reasoning", original.thought, origin),), answer=usable)
