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
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated

from annotated_types import Ge

from alttrain.english import score_sentences, sentences
from alttrain.records import Example, Segment
from alttrain.rewrite.parser import LIKELY, render

LONGEST_OF_A_TRACE, LONGEST_RESTATEMENT = 100, 30
"""Maximum number of words of an understanding taken from a trace, and of the request's words in a restatement."""

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
_I = re.compile(r"(?<!War )(?<!Part )(?<!Type )\bI('m| am| was|'ve|'d|'ll|)\b")
_QUOTATION = re.compile(r"""("[^"]*"|“[^”]*”|(?<!\w)['‘](?:[^'‘’]|(?<=\w)['’](?=\w))*['’](?!\w))""")
_NUMERAL = re.compile(r"(?<=\s)(?!War |Part |Type )[A-Z]\w* I\b|/I\b|\bI/")  # as in "King Charles I" and "I/O"
_VERBS = {"'m": " are", " am": " are", " was": " were", "'ve": " have", "'d": " would", "'ll": " will", "": ""}
_FIRST_PERSON = re.compile(r"\b([Mm]yself|[Mm]y|me|we're|we|our|us)\b")
_THIRD_PERSON = {  # what replaces the user's first person. "US", "6 am" and "World War I" are not the user.
    "myself": "themselves",
    **dict.fromkeys(("my", "our"), "their"),
    **dict.fromkeys(("me", "us"), "them"),
    "we're": "they are",
    "we": "they",
}


@dataclass(frozen=True)
class Restatement:
    """Restates the request by rules: questions ("How do I ...") and orders in the third person, the rest as a quote.

    So are texts with a numeral I, as in "King Charles I". What is quoted in a request stays as it is.
    """

    def __call__(self, example: Example) -> Segment:
        return Segment("understanding", self.restate(example.prompt), "restatement")

    def restate(self, prompt: str) -> str:
        """Return one sentence that says what the user wants."""
        text = re.sub(r"\s+", " ", prompt).strip()
        if len(list(islice(sentences(text), 2))) == 1 and not _NUMERAL.search(text):
            unended = text.rstrip(" .?!")
            if how_to := _HOW_TO.match(unended):
                return f"The user is asking how to {_shortened(_in_third_person(how_to[1]))}."
            order = _ORDER.match(unended)
            if order and not _YOU.search(order[1]):  # "you" is the model, as subject or as object
                return f"The user wants me to {_shortened(_in_third_person(order[1][0].lower() + order[1][1:]))}."
        return f'The user asks: "{_shortened(text)}"'


def _shortened(text: str) -> str:
    words = text.split()
    return text if len(words) <= LONGEST_RESTATEMENT else " ".join(words[:LONGEST_RESTATEMENT]) + " ..."


def _in_third_person(text: str) -> str:
    """Return a text with the user's "I" and "my" replaced by "they" and "their", except in a quotation."""
    parts = _QUOTATION.split(text)
    for index in range(0, len(parts), 2):  # the others are quotations
        part = _I.sub(lambda match: "they" + _VERBS[match[1]], parts[index].replace("’", "'"))
        parts[index] = _FIRST_PERSON.sub(lambda match: _THIRD_PERSON[match[1].lower()], part)
    return "".join(parts)


@dataclass(frozen=True)
class TraceUnderstanding:
    """The first understanding among the trace's first `within` sentences.

    `fallback` restates the request if there is none, or if the thought is not the trace of a reasoning backbone.
    """

    fallback: Restatement
    within: Annotated[int, Ge(1)] = 4

    def __call__(self, example: Example) -> tuple[Segment, tuple[Segment, ...]]:
        """Return the understanding of an example, on one line, and what follows it in the example's own thought."""
        origin = example.thought[0].origin if example.thought else ""
        restated = self.fallback(example)
        if origin.partition(":")[0] != "trace":
            return restated, example.thought
        trace = render(example.thought)
        ends = [end for _, end in islice(sentences(trace), self.within + 1)]
        for number, sentence in enumerate(score_sentences(trace[: max(ends, default=0)])[: self.within], 1):
            text = " ".join(trace[sentence.start : sentence.end].split())
            if len(text.split()) <= LONGEST_OF_A_TRACE and sentence.understanding >= LIKELY:
                found = Segment("understanding", text, origin if number == 1 else f"{origin}:sentence {number}")
                rest = trace[sentence.end :].lstrip()
                return found, (Segment("reasoning", rest, origin),) if rest else ()
        return replace(restated, origin=f"{restated.origin}:flagged"), example.thought
