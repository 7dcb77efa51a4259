"""Problem understanding from the backbone's own trace: the first sentence that says what the user wants.

The opening stays in the backbone's own words, so that it is familiar. Where the first sentence says nothing of the
request ("I need to figure out how to respond to the user's query."), the next one that does is taken; where none of
the first few does, the row is flagged and its understanding comes from elsewhere. Where each came from is its origin:

- `trace`                  the trace's first sentence (accepted)
- `trace:sentence 2`       a later one (repaired); what stands before it is left out
- `restatement:flagged`    none of the first sentences was one; the whole trace is kept to reason on with
- `restatement`            the row has no trace of its own
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Literal, Protocol

from annotated_types import Ge

from alttrain.records import Example, Segment
from alttrain.rewrite.parser import is_understanding, render
from alttrain.rewrite.sentences import sentences

TRACE = "trace"
_FLAGGED = ":flagged"
_NAMES_NOTHING = re.compile(
    r"\b(?:this|the|a|their) (?:user(?:'s)?(?: (?:request|query|question|prompt|message|input))?|"
    r"request|query|question|prompt|message|input|problem|task)(?: here| at hand| to solve| step by step)?\W*$",
    re.I,
)
"""A sentence that ends on the mere mention of the request."""
_INTERJECTIONS = (
    r"\W*(?:(?:okay|ok|alright|all right|hmm|so|well|right|now|basically|let me see|it (?:seems|looks|sounds))\W+"
    r"(?:like |that )?)*"
)
_USER_WANTS = (
    r"(?:(?:the|this) (?:user|person|request|query|question|prompt|problem|task)|they|he|she)(?:'re|'d|'s|'ve)?\b"
    r"(?:[^.!?;]{0,150}?\b(?:ask|want|wonder|request|look(?:s|ed|ing)? for|seek|would like)|"
    r"\s+(?:\w+\s+)?(?:need|tr(?:y|ies|ying)\b|say|said|wrote|is (?:about|for|to|how|whether)\b))"
)
_TASK = (
    r"(?:i(?:'m| am)?|we(?:'re| are)?) (?:need|have|want|supposed|asked|trying) to "
    r"(?:find|calculate|compute|solve|prove|show|determine|evaluate|estimate|express)\b"
)
_LATER = re.compile(rf"{_INTERJECTIONS}(?:{_USER_WANTS}|{_TASK})", re.I)
"""How a later sentence must begin: with the user who wants or says something, or with the problem to solve."""


class Understanding(Protocol):
    """Where the problem understanding of an example comes from."""

    def __call__(self, example: Example) -> Segment:
        """The understanding: one line."""

    def rest(self, example: Example) -> tuple[Segment, ...]:
        """What of the example's own thought is left to reason on with, after the understanding."""


@dataclass(frozen=True)
class TraceUnderstanding:
    """The first of the trace's first `within` sentences that is an understanding of at most `max_words` words.

    `fallback` restates the request where there is none, or where the thought is no trace: a thought's origin tells
    (`trace`, or `trace:` and whose), since what a backbone that does not reason was made to say opens with nothing.
    """

    fallback: Callable[[Example], Segment]
    within: Annotated[int, Ge(1)] = 4
    max_words: Annotated[int, Ge(5)] = 100

    def __call__(self, example: Example) -> Segment:
        """The understanding of one example, its blanks joined to one line."""
        if not has_trace(example):
            return self.fallback(example)
        found = self._find(render(example.thought))
        if found is None:
            restated = self.fallback(example)
            return replace(restated, origin=restated.origin + _FLAGGED)
        number, text, _ = found
        origin = example.thought[0].origin
        return Segment("understanding", text, origin if number == 1 else f"{origin}:sentence {number}")

    def rest(self, example: Example) -> tuple[Segment, ...]:
        """The trace after its understanding, byte for byte but for the blanks in between; empty where that was all."""
        found = self._find(render(example.thought)) if has_trace(example) else None
        if found is None:
            return example.thought
        rest = render(example.thought)[found[2] :].lstrip()
        return (Segment("reasoning", rest, example.thought[0].origin),) if rest else ()

    def _find(self, trace: str) -> tuple[int, str, int] | None:
        """(number, text on one line, end in the trace) of the sentence that is an understanding."""
        for number, (start, end) in enumerate(islice(sentences(trace), self.within), 1):
            text = " ".join(trace[start:end].split())
            if len(text.split()) <= self.max_words and says_what_is_wanted(text, first=number == 1):
                return number, text, end
        return None


def says_what_is_wanted(sentence: str, first: bool = True) -> bool:
    """Whether a trace's sentence says what the user wants, and not only that there is a request.

    A later sentence must begin with the user or the task: "First, I need to check the policies" is about the answer.
    """
    text = sentence.replace("’", "'")
    says = is_understanding(text) if first else _LATER.match(text) is not None
    return says and _NAMES_NOTHING.search(text) is None


Outcome = Literal["accepted", "repaired", "flagged", "no trace"]


def outcome(understanding: Segment) -> Outcome:
    """How an understanding came about, from its origin; for a stage's counts."""
    origin = understanding.origin
    if origin.endswith(_FLAGGED):
        return "flagged"
    if not _is_trace(origin):
        return "no trace"
    return "repaired" if ":sentence " in origin else "accepted"


def has_trace(example: Example) -> bool:
    """Whether the example's thought is what a reasoning backbone wrote for it."""
    return bool(example.thought) and _is_trace(example.thought[0].origin)


def _is_trace(origin: str) -> bool:
    return origin == TRACE or origin.startswith(f"{TRACE}:")
