"""The seams between a run, its teacher, and the model that a teacher asks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from alttrain.records import Example, Rejected, Segment
from alttrain.rewrite.teachers.cache import Reply
from alttrain.serving import Failure


def _silent(count: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Desk:
    """What a run lends its teacher.

    `cache` is the folder of replies that all runs share. `ask` puts user prompts to the backbone, greedily and within
    so many new tokens each, and returns its answers without the thoughts ("" where a thought did not end); `model`
    then says exactly who answers (weights, revision, dtype), since replies are kept under it. `progress` is told how
    many more examples are settled.
    """

    cache: Path
    ask: Callable[[list[str], int], list[str]] | None = None
    model: str = ""
    progress: Callable[[int], None] = _silent


class Teacher(Protocol):
    """Writes the harmfulness assessments."""

    @property
    def name(self) -> str:
        """Stands in the origin of each segment: "teacher:NAME"."""

    def assess(self, examples: Sequence[Example], seed: int, desk: Desk) -> Iterator[tuple[str, Segment | Rejected]]:
        """Each example's id with its assessment or why there is none, as they come, in any order, each id once."""


class Understander(Protocol):
    """Writes problem understandings, for rows that have no trace to take them from."""

    def understand(
        self, examples: Sequence[Example], seed: int, desk: Desk
    ) -> Iterator[tuple[str, Segment | Rejected]]:
        """Each example's id with its understanding or why there is none, as `Teacher.assess` does."""


class Writer(Protocol):
    """A model that answers prompts."""

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Everything besides model and prompt that shapes a reply."""

    def model(self, desk: Desk) -> str:
        """Who answers."""

    def verify(self, where: str) -> None:
        """Raise ValueError, naming the keys below the writer's own `where`, where the model cannot be asked."""

    def write(
        self, prompts: Mapping[str, str], desk: Desk, keep: Callable[[str, Reply], Reply]
    ) -> Iterator[tuple[str, Reply | Failure]]:
        """Answer prompts by key, as the replies come; each reply goes through `keep` the moment it arrives.

        A writer that gives up ends early: the keys it did not name stay unanswered.
        """
