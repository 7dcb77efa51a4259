"""Engines: prompts (tokens and text) in, generated texts out. The interface, and the engines in this process.

`EngineConfig` is what a config names. A stage starts it for one model and gets an `Engine`. A prompt that could not be
generated for yields a `Failure` with its reason; the failure is final if a retry would not help. In this process are
our decoder and vLLM, and a cache for the untrained backbone's texts.
"""

import hashlib
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Gt, Le

from alttrain import __version__
from alttrain.backbone.config import Dtype, Trainable
from alttrain.backbone.device import Device, check_kernels, has_gpu_driver, number_bytes
from alttrain.backbone.memory import Quantization, Shape, generation_bytes, weight_bytes
from alttrain.llm import Failure
from alttrain.records import DamagedError, exclusive, read_cached, read_json, seal, write_text

NO_VLLM = "generation=vllm_in_process needs vLLM: pip install 'alttrain[vllm]', or choose generation=in_process"


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

    def max_new_tokens(self, decoding: Decoding) -> int:
        return decoding.max_new_tokens if self.cap is None else min(self.cap, decoding.max_new_tokens)


@dataclass(frozen=True)
class Completion:
    """A generated text with special tokens, without the end token. `finish` is "length" if a limit cut it."""

    text: str
    finish: Literal["stop", "length"]


Results = Iterator[tuple[int, Completion | Failure]]  # (index of the prompt, what came of it)
Advance = Callable[[int], None]  # called with the number of prompts that have just ended


def ignore_progress(count: int) -> None:
    """Ignore progress."""


class Engine(Protocol):
    """A started engine."""

    @property
    def streams(self) -> bool:
        """Whether results arrive one by one, to be stored at once. If not, a call's results arrive together."""

    def generate(self, prompts: Sequence[Prompt], decoding: Decoding, advance: Advance = ignore_progress) -> Results:
        """Yield (index of the prompt, result), at most once per prompt. A prompt without one counts as not asked.

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

    def choice(self, accelerator: str) -> str:
        """Return the name of the field with the engine to use, given `trainer.accelerator`; "" is this one itself."""
        return ""

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

    def check_delimiters(self, renderer: Any) -> None:
        """Raise ValueError if the engine leaves out of its texts what tells the thought from the answer."""
        return

    @abstractmethod
    def start(self, model: Model) -> AbstractContextManager[Engine]:
        """Start the engine for a model; it stops with the context. Raises ValueError if it does not start."""

    def memory(
        self, shape: Shape, device: Device, prompt: int, new_tokens: int, weights: Quantization | int
    ) -> Mapping[str, int]:
        """Return the device memory needed, in bytes by part; {} if another process holds it.

        `weights` is how they are quantised, or their size, if they come quantised.
        """
        return {}


@dataclass(frozen=True)
class InProcess(EngineConfig):
    """Decoding in this process (`decoder`)."""

    slots: Annotated[int, Gt(0)] = 64  # sequences decoded at once; there are fewer where the memory is short
    chunk: Annotated[int, Gt(0)] = 128  # prompts per call: an interrupted run repeats at most these
    dtype: Dtype = "auto"

    batched: ClassVar[bool] = True

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        check_kernels(quantization or "none", "packed", gpu, owner="protocol")

    @contextmanager
    def start(self, model: Model) -> Iterator["LocalEngine"]:
        yield LocalEngine(model.decoder(self), model.renderer)

    def memory(
        self, shape: Shape, device: Device, prompt: int, new_tokens: int, weights: Quantization | int
    ) -> Mapping[str, int]:
        width = number_bytes(self.dtype, device)
        size = weights if isinstance(weights, int) else weight_bytes(shape, width, weights)
        return generation_bytes(shape, width, self.slots, prompt, new_tokens, size, device.free)


@dataclass(frozen=True)
class LocalEngine:
    """An engine around a `Decoder`. `renderer` decodes the tokens."""

    decoder: Any
    renderer: Any

    streams = False

    def generate(self, prompts: Sequence[Prompt], decoding: Decoding, advance: Advance = ignore_progress) -> Results:
        for number, tokens in enumerate(self.decoder.generate(prompts, decoding, advance)):
            ended = bool(tokens) and tokens[-1] in self.decoder.ends
            yield number, _completion(self.renderer, tokens, ended)


def _completion(renderer: Any, tokens: list[int], ended: bool) -> Completion:
    """Return the text of generated tokens, of which the last one is an end token if the text has `ended`."""
    return Completion(renderer.decode(tokens[:-1] if ended else tokens), "stop" if ended else "length")


class CachedEngine:
    """Caches the untrained backbone's texts on disk, so that rewrites and No-train runs of a sweep generate only once.

    Each call has one JSON file, FOLDER/ab/ab12....json, with the texts of all its prompts: batch composition can change
    a bfloat16 result. The file name is the SHA-256 of `identity`, decoding and prompt ids; `identity` describes model
    and engine. A damaged file is made again, and a call with failures is not kept. Concurrent jobs with the same call
    wait for the first one. `start` is called for the first call that is not in the cache.
    """

    streams = False

    def __init__(self, start: Callable[[], Engine], identity: Mapping[str, Any], folder: Path) -> None:
        self._start, self.identity, self.folder = start, identity, folder

    @cached_property
    def engine(self) -> Any:
        return self._start()

    def generate(self, prompts: Sequence[Prompt], decoding: Decoding, advance: Advance = ignore_progress) -> Results:
        settings = {key: value for key, value in asdict(decoding).items() if value is not None}
        ids = [prompt.ids for prompt in prompts]
        call = {"alttrain": __version__, **self.identity, "decoding": settings, "prompts": ids}
        if decoding.temperature:
            call["names"] = [prompt.name for prompt in prompts]
        if any(prompt.cap for prompt in prompts):
            call["caps"] = [prompt.max_new_tokens(decoding) for prompt in prompts]
        key = hashlib.sha256(json.dumps(call, sort_keys=True).encode()).hexdigest()
        path = self.folder / key[:2] / f"{key}.json"

        def read(path: Path) -> dict[int, Completion | Failure]:
            texts: list[Completion | Failure] = [Completion(**text) for text in read_json(path, list[Completion])]
            if len(texts) != len(prompts):
                raise DamagedError(path, f"has the texts of {len(texts)} prompts, not of {len(prompts)}")
            return dict(enumerate(texts))

        with exclusive(path):
            results = read_cached(path, read)
            if results is None:
                results = dict(self.engine.generate(prompts, decoding, advance))
                texts = [results.get(number) for number in range(len(prompts))]
                if all(isinstance(text, Completion) for text in texts):
                    write_text(path, json.dumps([vars(text) for text in texts]))
                    seal(path)
            else:
                advance(len(prompts))
        yield from results.items()


@dataclass(frozen=True)
class InProcessVllm(EngineConfig):
    """vLLM in this process, on a GPU. It applies the adapter apart from the weights, which differs by rounding."""

    memory_share: Annotated[float, Gt(0), Le(1)] = 0.9  # of the GPU's memory
    max_lora_rank: Annotated[int, Gt(0)] = 64
    chunk: Annotated[int, Gt(0)] = 4096
    options: Mapping[str, Any] = field(default_factory=dict)  # further arguments of vllm.LLM

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        super().check(quantization, gpu)
        if importlib.util.find_spec("vllm") is None:
            raise ValueError(NO_VLLM)

    def check_served(self, run: str, adapter: Trainable | None, trained: bool) -> None:
        if (rank := getattr(adapter, "rank", 0)) > self.max_lora_rank:
            raise ValueError(f"generation.max_lora_rank={self.max_lora_rank}: at least {rank} for adapter.rank={rank}")

    @contextmanager
    def start(self, model: Model) -> Iterator["VllmEngine"]:
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ValueError(NO_VLLM) from error
        loaded = LLM(
            model=str(model.weights()),
            gpu_memory_utilization=self.memory_share,
            enable_lora=model.adapter is not None,
            max_lora_rank=self.max_lora_rank,
            trust_remote_code=False,
            **self.options,
        )
        request = LoRARequest("adapter", 1, str(model.adapter.resolve())) if model.adapter else None
        yield VllmEngine(loaded, request, model.renderer)


@dataclass(frozen=True)
class VllmEngine:
    llm: Any
    adapter: Any
    renderer: Any

    streams = False

    def generate(self, prompts: Sequence[Prompt], decoding: Decoding, advance: Advance = ignore_progress) -> Results:
        from vllm import SamplingParams

        sampled = decoding.temperature > 0
        common = {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p if sampled else 1.0,
            "top_k": decoding.top_k if sampled and decoding.top_k else 0,
            "repetition_penalty": decoding.repetition_penalty,
            "stop_token_ids": [self.renderer.end_id],
            "skip_special_tokens": False,
        }
        sampling = []
        for prompt in prompts:
            seed = decoding.seed_of(prompt.name) if sampled else None
            sampling.append(SamplingParams(max_tokens=prompt.max_new_tokens(decoding), seed=seed, **common))
        inputs = [{"prompt_token_ids": prompt.ids} for prompt in prompts]
        outputs = self.llm.generate(inputs, sampling, lora_request=self.adapter, use_tqdm=False)
        for number, output in enumerate(outputs):
            (answer,) = output.outputs
            advance(1)
            yield number, _completion(self.renderer, list(answer.token_ids), answer.finish_reason != "length")


@dataclass(frozen=True)
class Auto:
    """vLLM in this process if it is installed and there is a usable GPU, else `InProcess`."""

    in_process: InProcess
    vllm: InProcessVllm

    def choice(self, accelerator: str) -> Literal["in_process", "vllm"]:
        """Return the name of the field to use, given `trainer.accelerator`."""
        gpu = accelerator != "cpu" and has_gpu_driver()
        return "vllm" if gpu and importlib.util.find_spec("vllm") is not None else "in_process"
