"""Problem understanding from the backbone's own trace: the first sentence that says what the user wants.

The opening stays in the backbone's own words, so that it is familiar. Where the first sentence says nothing of the
request ("I need to figure out how to respond to the user's query."), the next one that does is taken; where none of
the first few does, the row is flagged and its understanding comes from elsewhere. Where each came from is its origin:

- `trace`                  the trace's first sentence (accepted)
- `trace:sentence 2`       a later one (repaired); what stands before it is left out
- `restatement:flagged`    none of the first sentences was one; the whole trace is kept to reason on with
- `restatement`            the row has no trace of its own
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Literal, Protocol

from annotated_types import Ge

from alttrain.english import says, sentences
from alttrain.records import Example, Segment
from alttrain.rewrite.parser import LIKELY, render

TRACE = "trace"
_FLAGGED = ":flagged"


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
        ends = [end for _, end in islice(sentences(trace), self.within + 1)]
        for number, one in enumerate(says(trace[: max(ends, default=0)])[: self.within], 1):
            text = " ".join(trace[one.start : one.end].split())
            if len(text.split()) <= self.max_words and one.understanding >= LIKELY:
                return number, text, one.end
        return None


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
