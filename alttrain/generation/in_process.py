"""The engine in this process, what it has cached of an untrained backbone's answers, and the choice of it or vLLM."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt
from msgspec import Meta

from alttrain import __version__
from alttrain.backbone.config import Dtype
from alttrain.backbone.device import GIB, Device, check_kernels, has_gpu_driver, number_bytes
from alttrain.backbone.memory import CACHE_SHARE, Quantization, Shape, cache_bytes, generation_bytes
from alttrain.generation.engine import Decoding, EngineConfig, Model, Prompt, Written, unwatched
from alttrain.generation.vllm import InProcessVllm
from alttrain.llm import Failure
from alttrain.records import DamagedError, alone, from_cache, read_json, seal, write_text


@dataclass(frozen=True)
class InProcess(EngineConfig):
    """Decoding in this process (`decoder`).

    `slots` sequences decode at once; a finished one leaves and the next prompt takes its slot. `chunk` prompts are
    written together: an interrupted run repeats at most one chunk. Keys and values take at most `memory_gib` GiB (None:
    four fifths of what is free once the weights are loaded); there are fewer slots where all need more.
    """

    slots: Annotated[int, Gt(0)] = 64
    chunk: Annotated[int, Gt(0)] = 128
    dtype: Dtype = "auto"
    memory_gib: Annotated[float, Gt(0)] | None = None

    batched: ClassVar[bool] = True

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        """Raise ValueError where the protocol's quantisation lacks a package or a GPU."""
        if quantization not in (None, "none"):
            check_kernels(quantization, "packed", gpu, owner="protocol")

    @contextmanager
    def start(self, model: Model) -> Iterator["LocalEngine"]:
        """Load the model."""
        yield LocalEngine(model.decoder(self), model.renderer)

    def memory(
        self, shape: Shape, device: Device, prompt: int, new_tokens: int, quantization: Quantization
    ) -> Mapping[str, int]:
        """Weights, one pass, and as much of the cache as there is room for: one slot at least."""
        width = number_bytes(self.dtype, device)
        parts = generation_bytes(shape, width, self.slots, prompt, new_tokens, quantization)
        room = parts["cache"]
        if self.memory_gib is not None:
            room = int(self.memory_gib * GIB)
        elif device.free is not None:
            room = int(CACHE_SHARE * (device.free - sum(parts.values()) + parts["cache"]))
        one = cache_bytes(shape, width, 1, prompt + new_tokens)
        return parts | {"cache": max(one, min(parts["cache"], room))}


@dataclass(frozen=True)
class LocalEngine:
    """Decodes by a `Decoder`, or by a `CachedDecoder` around one; `renderer` turns tokens to text."""

    decoder: Any
    renderer: Any

    streams = False

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = unwatched
    ) -> Iterator[tuple[int, Written | Failure]]:
        """All answers, in the prompts' order."""
        ids, names = [prompt.ids for prompt in prompts], [prompt.name for prompt in prompts]
        caps = [prompt.most(decoding) for prompt in prompts] if any(prompt.cap for prompt in prompts) else []
        for number, tokens in enumerate(self.decoder.generate(ids, decoding, names, advance, caps)):
            ended = bool(tokens) and tokens[-1] == self.renderer.end_id
            yield number, Written(self.renderer.decode(tokens), "stop" if ended else "length")


@dataclass(frozen=True)
class Auto:
    """vLLM in this process where it is installed and there is a GPU to use, else the decoder of this package."""

    in_process: InProcess
    vllm: InProcessVllm

    def choice(self, accelerator: str) -> Literal["in_process", "vllm"]:
        """The field to use, for a `trainer.accelerator`."""
        gpu = accelerator != "cpu" and has_gpu_driver()
        return "vllm" if gpu and importlib.util.find_spec("vllm") is not None else "in_process"


class CachedDecoder:
    """Decodes by the decoder that `load` gives, and keeps what it wrote: the No-train runs of a sweep generate once.

    A file of JSON for each call, FOLDER/ab/ab12....json, holds the tokens of all its prompts: which prompts are decoded
    together can change a bfloat16 result, so a call is taken whole or made anew. Its name is the SHA-256 of all that
    shapes them, of which `identity` is the model and how it decodes, without the `Decoding`. A file appears whole, with
    a checksum; a damaged one is made again. Jobs that want the same one wait for the first to write it.
    """

    def __init__(self, load: Callable[[], Any], identity: Mapping[str, Any], folder: Path) -> None:
        self._load = load
        self.identity = identity
        self.folder = folder

    @cached_property
    def decoder(self) -> Any:
        """The decoder, loaded for what is not kept yet."""
        return self._load()

    def generate(
        self,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        names: Sequence[str] = (),
        on_finished: Callable[[int], None] | None = None,
        caps: Sequence[int] = (),
    ) -> list[list[int]]:
        """The tokens written to each prompt; see `Decoder.generate`."""
        chosen = {key: value for key, value in asdict(decoding).items() if value is not None}
        asked = {"alttrain": __version__, **self.identity, "decoding": chosen, "prompts": list(prompts)}
        if decoding.temperature:
            asked["names"] = list(names)
        if caps:
            asked["caps"] = list(caps)
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        path = self.folder / key[:2] / f"{key}.json"
        with alone(path):
            kept: list[list[int]] | None = from_cache(path, lambda path: _read(path, len(prompts)))
            if kept is not None:
                if on_finished:
                    on_finished(len(prompts))
                return kept
            written: list[list[int]] = self.decoder.generate(prompts, decoding, names, on_finished, caps)
            write_text(path, json.dumps(written))
            seal(path)
            return written


def _read(path: Path, prompts: int) -> list[list[int]]:
    written: list[list[int]] = read_json(path, list[list[Annotated[int, Meta(ge=0, lt=2**31)]]])
    if len(written) != prompts:
        raise DamagedError(path, f"has the tokens of {len(written)} prompts, not of {prompts}")
    return written
