"""The seam between a stage that wants texts and what writes them: this process, a server, vLLM.

An engine is given prompts, as tokens and as text, and gives back what was written to each, in any order. What could not
be written is a `Failure` with its reason: final where asking again would not help.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from alttrain.generation.config import Decoding
from alttrain.llm import Failure


@dataclass(frozen=True)
class Prompt:
    """One prompt: the tokens the model is given, the text they are of, and a name that tells samples apart.

    `cap` is the most new tokens it may have, where that is fewer than `Decoding.max_new_tokens`.
    """

    ids: list[int]
    text: str
    name: str
    cap: int | None = None

    def most(self, decoding: Decoding) -> int:
        """The most new tokens it may have."""
        return decoding.max_new_tokens if self.cap is None else min(self.cap, decoding.max_new_tokens)


@dataclass(frozen=True)
class Written:
    """What was written, special tokens kept except the end of the turn, and whether it ended by itself."""

    text: str
    finish: Literal["stop", "length"]


def _silent(count: int) -> None:
    """Progress that nobody watches."""


class Engine(Protocol):
    """Writes to prompts."""

    @property
    def streams(self) -> bool:
        """Whether answers come one by one, each worth keeping at once; else a call's answers come together."""

    def write(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = _silent
    ) -> Iterator[tuple[int, Written | Failure]]:
        """(prompt's number, what was written), each number once; those after a server was given up are left out."""


class Decodes(Protocol):
    """What a local engine decodes with: `Decoder`, or `KeptDecoder` around one."""

    def generate(
        self,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        names: Sequence[str],
        on_finished: Callable[[int], None] | None,
        caps: Sequence[int],
    ) -> list[list[int]]:
        """The tokens written for each prompt."""


@dataclass(frozen=True)
class LocalEngine:
    """Decodes in this process; `renderer` turns tokens to text."""

    decoder: Decodes
    renderer: Any

    streams = False

    def write(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = _silent
    ) -> Iterator[tuple[int, Written | Failure]]:
        """All answers, in the prompts' order."""
        ids, names = [prompt.ids for prompt in prompts], [prompt.name for prompt in prompts]
        caps = [prompt.most(decoding) for prompt in prompts] if any(prompt.cap for prompt in prompts) else []
        written = self.decoder.generate(ids, decoding, names, advance, caps)
        for number, tokens in enumerate(written):
            ended = bool(tokens) and tokens[-1] == self.renderer.end_id
            yield number, Written(self.renderer.decode(tokens), "stop" if ended else "length")
