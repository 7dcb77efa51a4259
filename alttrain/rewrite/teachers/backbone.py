"""A writer that is a model in process: the backbone itself, through `Desk.ask`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Gt

from alttrain.rewrite.teachers.cache import Reply
from alttrain.rewrite.teachers.desk import Desk


@dataclass(frozen=True)
class BackboneWriter:
    """Asks the run's own backbone, greedily, within `max_tokens` new tokens (thought included).

    `chunk` prompts are decoded together and kept together: a kill loses at most one chunk.
    """

    max_tokens: Annotated[int, Gt(0)]
    chunk: Annotated[int, Gt(0)] = 64

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Greedy, up to the cap."""
        return {"temperature": 0.0, "max_tokens": self.max_tokens}

    def model(self, desk: Desk) -> str:
        """The run's name for the weights it asks. Raises ValueError where it lends none."""
        if desk.ask is None or not desk.model:
            raise ValueError("teacher.writer: this run lends no backbone to ask; choose teacher=server")
        return desk.model

    def verify(self, where: str) -> None:
        """The backbone's own source is checked where it is configured."""

    def write(
        self, prompts: Mapping[str, str], desk: Desk, keep: Callable[[str, Reply], Reply]
    ) -> Iterator[tuple[str, Reply]]:
        """Answer the prompts chunk by chunk."""
        assert desk.ask is not None
        keys = list(prompts)
        for start in range(0, len(keys), self.chunk):
            chunk = keys[start : start + self.chunk]
            texts = desk.ask([prompts[key] for key in chunk], self.max_tokens)
            yield from [(key, keep(key, Reply(text))) for key, text in zip(chunk, texts, strict=True)]
