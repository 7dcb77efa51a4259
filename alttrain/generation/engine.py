"""What an engine is: it is given prompts, as tokens and as text, and gives back what was written to each.

A config describes an engine (`EngineConfig`); a stage starts it for one model and asks it (`Engine`). What could not be
written is a `Failure` with its reason, final where asking again would not help.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Gt, Le

from alttrain.backbone.device import Device
from alttrain.backbone.memory import Quantization, Shape
from alttrain.llm import Failure

if TYPE_CHECKING:
    from alttrain.generation.in_process import InProcess


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. `max_new_tokens` caps thought and answer together.

    `temperature` 0 is greedy. Otherwise a token is drawn from the `top_k` likeliest (None: all), and of these from the
    likeliest that together reach `top_p`, `samples` times a prompt; a draw depends on `seed`, the row and the sample
    alone, never on the batch. `repetition_penalty` is CTRL's (Keskar et al., 2019) over prompt and response, as vLLM
    and transformers have it.

    `context` is the length of prompt and response at which a response is cut, as vLLM cuts it at max_model_len;
    "backbone" is the backbone's own. None cuts nothing: a prompt that leaves no room for `max_new_tokens` is refused.
    """

    max_new_tokens: Annotated[int, Gt(0)]
    temperature: Annotated[float, Ge(0)] = 0.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    repetition_penalty: Annotated[float, Ge(1)] = 1.0
    samples: Annotated[int, Gt(0)] = 1
    seed: int = 0
    top_k: Annotated[int, Gt(0)] | None = None
    context: Annotated[int, Gt(0)] | Literal["backbone"] | None = None

    def cut_at(self, context_length: int) -> int | None:
        """Tokens of prompt and response at which a response is cut, for a backbone of this context."""
        if self.context is None:
            return None
        return context_length if self.context == "backbone" else min(self.context, context_length)

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"samples={self.samples} with temperature=0 would be the same text; set a temperature")

    def seed_of(self, name: str) -> int:
        """The seed, below 2^31, with which a server draws the prompt of this name."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}\x1f{name}".encode()).digest()[:4]) >> 1


@dataclass(frozen=True)
class Prompt:
    """One prompt: its tokens, their text, and a name that tells samples apart.

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
    """What was written, with its special tokens except the end of the turn, and whether it ended by itself."""

    text: str
    finish: Literal["stop", "length"]


def unwatched(count: int) -> None:
    """Progress that nobody watches."""


class Engine(Protocol):
    """A started engine."""

    @property
    def streams(self) -> bool:
        """Whether answers come one by one, each worth keeping at once; else a call's answers come together."""

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = unwatched
    ) -> Iterator[tuple[int, Written | Failure]]:
        """(prompt's number, what was written), each number once; those after a server was given up are left out."""


@dataclass(frozen=True)
class Model:
    """The model that an engine is started for: a run's backbone, or what the run trained.

    `adapter` and `trained` are the folders of a trained adapter and of a model that was trained whole; the other one,
    or both for the backbone, is None. `weights` gives the folder of the weights, without the adapter, and `decoder`
    loads model and adapter into this process as an engine there asks. `log` is the file for a server's output.
    """

    run: str
    renderer: Any
    adapter: Path | None
    trained: Path | None
    weights: Callable[[], Path]
    decoder: Callable[["InProcess"], Any]
    log: Path


class EngineConfig(ABC):
    """What a config says of an engine. `chunk` is the number of prompts that are handed over at a time."""

    batched: ClassVar[bool] = False
    """Whether `chunk` shapes what is written: prompts are decoded together."""
    dtype: str | None = None
    """The config's name of the dtype that a model in this process computes in."""

    @property
    @abstractmethod
    def chunk(self) -> int: ...

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        """Raise ValueError where the engine cannot start here. `quantization` is what the protocol asks for."""
        if quantization not in (None, "none"):
            raise ValueError(
                f"protocol.quantization={quantization}: a server or vLLM has its weights as it was started; set "
                "generation=in_process, or protocol.quantization=null for weights as they are served"
            )

    @abstractmethod
    def start(self, model: Model) -> AbstractContextManager[Engine]:
        """The engine for a model, which ends with the context. Raises ValueError where it does not start."""

    def memory(
        self, shape: Shape, device: Device, prompt: int, new_tokens: int, quantization: Quantization
    ) -> Mapping[str, int] | None:
        """Bytes by part that it takes of the device here, or None where its memory is not this process's."""
        return None
