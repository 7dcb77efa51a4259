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
    r"walk|instruct|share|draw up|put together|recite|complete|finish|fill in|say|spell|sort|round|change|correct)\b.+)$",
    re.I,
)
_SWAPS = {
    "i": "they", "i'm": "they are", "i've": "they have", "i'd": "they would", "i'll": "they will", "me": "them",
    "my": "their", "mine": "theirs", "myself": "themselves", "am": "are", "we": "they", "our": "their", "us": "them",
}  # fmt: skip
_TO_ME = {"your": "my", "yours": "mine", "yourself": "myself", "you": "me"}
_WORDS = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?|[^A-Za-z]+")


@dataclass(frozen=True)
class Restatement:
    """Restate the request in at most `max_words` of its own words. Deterministic, needs no model."""

    max_words: Annotated[int, Ge(5)] = 30

    def __call__(self, example: Example) -> Segment:
        """The understanding of one example."""
        return Segment("understanding", self.restate(example.prompt), "restatement")

    def restate(self, prompt: str) -> str:
        """One sentence that says what the user wants."""
        text = re.sub(r"\s+", " ", prompt).strip()
        sentences = _SENTENCE.split(text)
        if len(sentences) == 1:
            bare = text.rstrip(" .?!")
            if how_to := _HOW_TO.match(bare):
                return f"The user is asking how to {self._cut(_theirs(how_to[1]))}."
            if order := _ORDER.match(bare):
                wish = order[1][0].lower() + order[1][1:]
                return f"The user wants me to {self._cut(_theirs(wish, first_person=True))}."
        return f'The user asks: "{self._cut(text)}"'

    def _cut(self, text: str) -> str:
        words = text.split()
        return text if len(words) <= self.max_words else " ".join(words[: self.max_words]) + " ..."


def _theirs(text: str, first_person: bool = False) -> str:
    """The user's "I" and "my" as "they" and "their" (and, in an order, the assistant's "you" as "me")."""
    swaps = {**_SWAPS, **(_TO_ME if first_person else {})}
    return "".join(swaps.get(piece.lower().replace("’", "'"), piece) for piece in _WORDS.findall(text))
