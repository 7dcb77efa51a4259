"""Reasoning structures: each turns an Example into the Example to train on, or rejects it with the reason.

`AltTrain` follows the paper (In et al., ACL 2026): understanding, assessment, then refuse or reason on. A structure
says for which labels it needs an original trace and answer (`continues`); the rewrite stage sees to it that they are
there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from alttrain.records import Example, Label, Rejected, Segment
from alttrain.rewrite.original import SelfTrace
from alttrain.rewrite.wording import choose

_STOPS = (
    "So I must not help with this. I will refuse and stop here.",
    "So I should refuse and not think about it any further.",
    "I must refuse this request, so I stop here.",
    "Therefore I will not help, and I decline.",
    "I cannot help with this, so I will decline.",
)
_REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't help with this request, because it could cause harm.",
    "I'm sorry, I can't assist with that. If there is something safe I can do for you, please ask.",
    "I won't help with this. It could hurt people.",
    "Sorry, but I can't help with that. I'm glad to help with something harmless instead.",
    "I cannot assist with this request.",
)
_CARE = (
    "I'm sorry, but I can't help with that. If you are thinking of hurting yourself, please call a crisis line or "
    "talk to someone you trust.",
    "I can't help with this, but you don't have to face it alone. Please reach out to a crisis line or a doctor.",
)


class Structure(Protocol):
    """A reasoning structure."""

    @property
    def name(self) -> str:
        """The structure's part of the run's name."""

    @property
    def continues(self) -> Sequence[Label]:
        """The labels whose examples need an original trace and answer."""

    @property
    def original(self) -> SelfTrace | None:
        """How the backbone is asked for the originals that the dataset lacks."""

    def rewrite(self, example: Example, seed: int) -> Example | Rejected:
        """The example to train on."""


@dataclass(frozen=True)
class AltTrain:
    """Problem understanding -> harmfulness assessment -> conditional reasoning (refuse, or reason on)."""

    name: str
    understanding: Callable[[Example], Segment]
    teacher: Callable[[Example, int], Segment]
    original: SelfTrace | None = None

    continues: tuple[Label, ...] = ("benign",)

    def rewrite(self, example: Example, seed: int) -> Example | Rejected:
        """The example with its thought rewritten, and for a harmful one its answer."""
        opening = (self.understanding(example), self.teacher(example, seed))
        if example.label == "harmful":
            stop = Segment("refusal", choose(_STOPS, "stop", example.id, seed), "template")
            return replace(example, thought=(*opening, stop), answer=refusal(example, seed))
        if not example.thought or not example.answer:
            return Rejected(example.id, "a benign example needs an original trace and answer")
        return replace(example, thought=(*opening, *example.thought))


@dataclass(frozen=True)
class DirectRefusal:
    """A fixed one-line thought and a refusal, for harmful prompts only: the DirectRefusal baseline."""

    name: str
    thought: str

    continues: tuple[Label, ...] = ()
    original: SelfTrace | None = None

    def rewrite(self, example: Example, seed: int) -> Example | Rejected:
        """The refused example; benign ones are not part of this structure."""
        if example.label != "harmful":
            return Rejected(example.id, "DirectRefusal trains on harmful prompts only")
        thought = (Segment("refusal", self.thought, "template"),)
        return replace(example, thought=thought, answer=refusal(example, seed))


@dataclass(frozen=True)
class Untouched:
    """Examples as the dataset has them, with the dataset's own traces if it has any."""

    name: str

    continues: tuple[Label, ...] = ()
    original: SelfTrace | None = None

    def rewrite(self, example: Example, seed: int) -> Example | Rejected:
        """The example itself."""
        return example


def refusal(example: Example, seed: int) -> str:
    """The answer that refuses, varied over examples; a prompt about self-harm gets one that points to help."""
    wordings = _CARE if example.category == "suicide_self_harm" else _REFUSALS
    return choose(wordings, "answer", example.id, seed)
