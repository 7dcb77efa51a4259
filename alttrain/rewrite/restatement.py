"""Problem understanding for a prompt without a trace: restate the request in one sentence.

A reasoning backbone opens its own trace with such a sentence ("Okay, so the user is asking how to ..."). Where no trace
exists, the request's own words are turned into one: questions of the form "How do I ..." and orders keep their words,
anything else is quoted.
"""

import re
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from alttrain.records import Example, Segment

_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]?[A-Z0-9])")
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
"""The user's first person as the third; "US", "6 am" and "World War I" are not the user."""


@dataclass(frozen=True)
class Restatement:
    """Restate the request in at most `max_words` of its own words. Deterministic, needs no model."""

    max_words: Annotated[int, Ge(5)] = 30

    def __call__(self, example: Example) -> Segment:
        """The understanding of one example."""
        return Segment("understanding", self.restate(example.prompt), "restatement")

    def rest(self, example: Example) -> tuple[Segment, ...]:
        """The whole thought: none of it was taken."""
        return example.thought

    def restate(self, prompt: str) -> str:
        """One sentence that says what the user wants."""
        text = re.sub(r"\s+", " ", prompt).strip()
        sentences = _SENTENCE.split(text)
        if len(sentences) == 1:
            bare = text.rstrip(" .?!")
            if how_to := _HOW_TO.match(bare):
                return f"The user is asking how to {self._cut(_theirs(how_to[1]))}."
            order = _ORDER.match(bare)
            if order and not _YOU.search(order[1]):  # "you" is me: as subject or as object cannot be told
                wish = order[1][0].lower() + order[1][1:]
                return f"The user wants me to {self._cut(_theirs(wish))}."
        return f'The user asks: "{self._cut(text)}"'

    def _cut(self, text: str) -> str:
        words = text.split()
        return text if len(words) <= self.max_words else " ".join(words[: self.max_words]) + " ..."


def _theirs(text: str) -> str:
    """The user's "I" and "my" as "they" and "their"."""
    text = text.replace("’", "'")
    for person, third in _PERSONS:
        text = re.sub(person, third, text)
    return text
