"""The problem understanding, from the backbone's own trace or, without a trace, a restatement of the request.

A thought should open in the backbone's own words, which are familiar to the model. `TraceUnderstanding` takes the first
sentence of a trace that says what the user wants, skipping openings such as "I need to figure out how to respond to the
user's query." `Restatement` turns the request itself into such a sentence. The segment's origin records the source:

- `trace`                  the trace's first sentence (accepted)
- `trace:sentence 2`       a later sentence (repaired); the sentences before it are dropped
- `restatement:flagged`    no understanding in the first sentences; the whole trace is kept as reasoning
- `restatement`            the row has no trace of its own
"""

import re
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

_HOW_TO = re.compile(
    r"^how\s+(?:do|can|could|should|would|might|must)\s+(?:i|you|we|one|someone|somebody|people|a person)\s+(.+)$", re.I
)
_ORDER = re.compile(
    r"^(?:please\s+|can you\s+|could you\s+|would you\s+|will you\s+)?(?:please\s+)?"
    r"((?:write|give|tell|explain|describe|list|provide|help|teach|create|draft|develop|design|make|show|name|find|"
    r"suggest|recommend|compose|generate|translate|summari[sz]e|rewrite|rephrase|outline|prepare|plan|compare|convert|"
    r"calculate|compute|work out|add|solve|define|identify|produce|build|invent|come up with|turn|pretend|act|"
    r"walk|instruct|share|draw up|put together|recite|complete|finish|fill in|say|spell|sort|round|change|correct)"
    r"\b.+)$",
    re.I,
)
_YOU = re.compile(r"\byou(?:r|rs|rself|'\w+)?\b", re.I)
_PERSONS = (
    (r"(?<!War )(?<!Part )(?<!Type )\bI(?:'m| am)\b", "they are"),
    (r"(?<!War )(?<!Part )(?<!Type )\bI was\b", "they were"),
    (r"(?<!War )(?<!Part )(?<!Type )\bI've\b", "they have"),
    (r"(?<!War )(?<!Part )(?<!Type )\bI'd\b", "they would"),
    (r"(?<!War )(?<!Part )(?<!Type )\bI'll\b", "they will"),
    (r"(?<!War )(?<!Part )(?<!Type )\bI\b", "they"),
    (r"\b[Mm]yself\b", "themselves"),
    (r"\b[Mm]y\b", "their"),
    (r"\bme\b", "them"),
    (r"\bwe're\b", "they are"),
    (r"\bwe\b", "they"),
    (r"\bour\b", "their"),
    (r"\bus\b", "them"),
)
"""Replacements of the user's first person by the third. "US", "6 am" and "World War I" are not the user."""


class Understanding(Protocol):
    """A source of problem understandings."""

    def __call__(self, example: Example) -> Segment:
        """Return the understanding of an example, on one line."""

    def rest(self, example: Example) -> tuple[Segment, ...]:
        """Return the part of the example's own thought that follows the understanding; empty if nothing does."""


@dataclass(frozen=True)
class TraceUnderstanding:
    """The first understanding among the trace's first `within` sentences, of at most `max_words` words.

    `fallback` restates the request if there is none, or if the thought is not the trace of a reasoning backbone, whose
    origin is `trace` or `trace:` and a name.
    """

    fallback: Callable[[Example], Segment]
    within: Annotated[int, Ge(1)] = 4
    max_words: Annotated[int, Ge(5)] = 100

    def __call__(self, example: Example) -> Segment:
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
        found = self._find(render(example.thought)) if has_trace(example) else None
        if found is None:
            return example.thought
        rest = render(example.thought)[found[2] :].lstrip()
        return (Segment("reasoning", rest, example.thought[0].origin),) if rest else ()

    def _find(self, trace: str) -> tuple[int, str, int] | None:
        """Find the understanding: (sentence number from 1, text on one line, end in the trace), or None."""
        ends = [end for _, end in islice(sentences(trace), self.within + 1)]
        for number, one in enumerate(says(trace[: max(ends, default=0)])[: self.within], 1):
            text = " ".join(trace[one.start : one.end].split())
            if len(text.split()) <= self.max_words and one.understanding >= LIKELY:
                return number, text, one.end
        return None


@dataclass(frozen=True)
class Restatement:
    """Restates the request, without a model, in at most `max_words` of its own words.

    Questions ("How do I ...") and orders are put in the third person; anything else is quoted.
    """

    max_words: Annotated[int, Ge(5)] = 30

    def __call__(self, example: Example) -> Segment:
        return Segment("understanding", self.restate(example.prompt), "restatement")

    def rest(self, example: Example) -> tuple[Segment, ...]:
        return example.thought  # the restatement took nothing from it

    def restate(self, prompt: str) -> str:
        """Return one sentence that says what the user wants."""
        text = re.sub(r"\s+", " ", prompt).strip()
        if len(list(islice(sentences(text), 2))) == 1:
            bare = text.rstrip(" .?!")
            if how_to := _HOW_TO.match(bare):
                return f"The user is asking how to {self._cut(_theirs(how_to[1]))}."
            order = _ORDER.match(bare)
            if order and not _YOU.search(order[1]):  # "you" is the model, as subject or as object
                wish = order[1][0].lower() + order[1][1:]
                return f"The user wants me to {self._cut(_theirs(wish))}."
        return f'The user asks: "{self._cut(text)}"'

    def _cut(self, text: str) -> str:
        words = text.split()
        return text if len(words) <= self.max_words else " ".join(words[: self.max_words]) + " ..."


def _theirs(text: str) -> str:
    """Replace the user's "I" and "my" in a text by "they" and "their"."""
    text = text.replace("’", "'")
    for person, third in _PERSONS:
        text = re.sub(person, third, text)
    return text


Outcome = Literal["accepted", "repaired", "flagged", "no trace"]


def outcome(understanding: Segment) -> Outcome:
    """Return how an understanding was made, from its origin."""
    origin = understanding.origin
    if origin.endswith(_FLAGGED):
        return "flagged"
    if origin.partition(":")[0] != TRACE:
        return "no trace"
    return "repaired" if ":sentence " in origin else "accepted"


def has_trace(example: Example) -> bool:
    """Return whether a reasoning backbone wrote the example's thought."""
    return bool(example.thought) and example.thought[0].origin.partition(":")[0] == TRACE
