"""The interface of generation engines: prompts (tokens and text) in, generated texts out.

`EngineConfig` is what a config names. A stage starts it for one model and gets an `Engine`. A prompt that could not be
generated for yields a `Failure` with its reason; the failure is final if a retry would not help.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Gt, Le

from alttrain.backbone.config import Trainable
from alttrain.backbone.device import Device
from alttrain.backbone.memory import Quantization, Shape
from alttrain.llm import Failure


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: greedily if `temperature` is 0, else at random.

    A draw depends only on `seed`, the row and the sample's number, not on the batch. Without a `context`, a prompt that
    leaves no room for `max_new_tokens` is refused.
    """

    max_new_tokens: Annotated[int, Gt(0)]  # thought and answer together
    temperature: Annotated[float, Ge(0)] = 0.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0  # of the probability of the `top_k` most likely tokens
    repetition_penalty: Annotated[float, Ge(1)] = 1.0  # CTRL's (Keskar et al., 2019), over prompt and response
    samples: Annotated[int, Gt(0)] = 1  # responses per prompt
    seed: int = 0
    top_k: Annotated[int, Gt(0)] | None = None  # None: all
    # tokens of prompt plus response at which a response is cut, like vLLM's max_model_len; "backbone": its context
    context: Annotated[int, Gt(0)] | Literal["backbone"] | None = None

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"samples={self.samples} with temperature=0 would be the same text; set a temperature")

    def cut_at(self, context_length: int) -> int | None:
        """Return the tokens of prompt plus response at which responses are cut; None if they are not."""
        if self.context is None:
            return None
        return context_length if self.context == "backbone" else min(self.context, context_length)

    def seed_of(self, name: str) -> int:
        """Return the seed, below 2^31, that a server gets for the prompt with this name."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}\x1f{name}".encode()).digest()[:4]) >> 1


@dataclass(frozen=True)
class Prompt:
    """One prompt; its name is different for each sample. `cap` limits the new tokens further than `Decoding`."""

    ids: list[int]
    text: str
    name: str
    cap: int | None = None

    def most(self, decoding: Decoding) -> int:
        return decoding.max_new_tokens if self.cap is None else min(self.cap, decoding.max_new_tokens)


@dataclass(frozen=True)
class Written:
    """A generated text with special tokens, without the end token. `finish` is "length" if a limit cut it."""

    text: str
    finish: Literal["stop", "length"]


def unwatched(count: int) -> None:
    """Ignore progress."""


class Engine(Protocol):
    """A started engine."""

    @property
    def streams(self) -> bool:
        """Whether results arrive one by one, to be stored at once. If not, a call's results arrive together."""

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = unwatched
    ) -> Iterator[tuple[int, Written | Failure]]:
        """Yield (index of the prompt, result), at most once per prompt; some are missing if a server fails.

        `advance` is called with the number of prompts that have just ended.
        """


@dataclass(frozen=True)
class Model:
    """The model an engine is started for: a run's backbone, or the model that the run trained."""

    run: str  # the run's name
    renderer: Any
    adapter: Path | None  # the folder of a trained adapter
    trained: Path | None  # the folder of a fully fine-tuned model
    weights: Callable[[], Path]  # returns the folder of the weights, without the adapter
    decoder: Callable[[Any], Any]  # takes an `InProcess`, and loads model and adapter into this process
    log: Path  # the file for a server's output


class EngineConfig(ABC):
    """An engine as a config describes it. `chunk` is the number of prompts passed to the engine per call."""

    batched: ClassVar[bool] = False  # whether `chunk` affects the results, because prompts are decoded together
    loads_weights: ClassVar[bool] = True  # whether this machine needs the weights
    dtype: str | None = None  # the config's dtype name for a model in this process
    base_url: str = "the server that was started"  # the server's address, for error messages

    @property
    @abstractmethod
    def chunk(self) -> int: ...

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        """Raise ValueError if the engine cannot start here. `quantization` is the protocol's."""
        if quantization not in (None, "none"):
            raise ValueError(
                f"protocol.quantization={quantization}: a server or vLLM has its weights as it was started; set "
                "generation=in_process, or protocol.quantization=null for weights as they are served"
            )

    def check_served(self, run: str, adapter: Trainable | None, trained: bool) -> None:
        """Raise ValueError if the engine cannot serve a run's backbone, or with `adapter` what is trained of it.

        `trained` says whether the training is done. By default every model can be served.
        """
        return

    @abstractmethod
    def start(self, model: Model) -> AbstractContextManager[Engine]:
        """Start the engine for a model; it stops with the context. Raises ValueError if it does not start."""

    def memory(
        self, shape: Shape, device: Device, prompt: int, new_tokens: int, quantization: Quantization
    ) -> Mapping[str, int] | None:
        """Return the device memory needed, in bytes by part; None if another process holds it."""
        return None
