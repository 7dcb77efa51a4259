"""The engine for a server with OpenAI's completions API: vLLM, SGLang, llama.cpp, `transformers serve`.

With `api: tokens`, prompts are sent as token ids, so the model sees exactly the ids used in training. With `api: text`,
they are sent as rendered text, without the beginning token if the server's tokenizer adds it. The server's tokenizer
cannot tell the template's special tokens from those in a user's text, so the latter are disabled by a space. An adapter
is a separate model name on the server (vLLM's multi-LoRA), so one server serves the backbone and all adapters of a
sweep; vLLM can load an adapter on request. `alttrain.llm` implements retries.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Gt, MinLen

from alttrain.backbone.memory import Quantization
from alttrain.generation.engine import Decoding, EngineConfig, Model, Prompt, Written, unwatched
from alttrain.llm import FailedTry, Failure, RequestPool, ServerSettings, is_other_model, json_of, scrub, word

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 300.0
"""Seconds a server may take to load an adapter."""


@dataclass(frozen=True)
class Server(ServerSettings, EngineConfig):
    """A server that is already running.

    `model_name` is the backbone's name on the server, `adapter_name` the trained adapter's ("{run}" is the run's name).
    With `loads_adapters` the server is asked to load the adapter; vLLM must run with VLLM_ALLOW_RUNTIME_LORA_UPDATING
    set. `chunk` is the number of prompts passed to the engine per call.
    """

    adapter_name: Annotated[str, MinLen(1)] = "{run}"
    loads_adapters: bool = False
    api: Literal["tokens", "text"] = "tokens"
    concurrency: Annotated[int, Gt(0)] = 64
    timeout_s: Annotated[float, Gt(0)] = 600.0
    chunk: Annotated[int, Gt(0)] = 4096

    where: ClassVar[str] = "generation"

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        super().check(quantization, gpu)
        self.key()

    @contextmanager
    def start(self, model: Model) -> Iterator["ServerEngine"]:
        trained = model.adapter or model.trained
        name = self.adapter_name.replace("{run}", model.run) if trained else self.model_name
        if model.adapter and self.loads_adapters:
            _load_adapter(self, name, model.adapter)
        yield ServerEngine(self, name, model.renderer)


class ServerEngine:
    """Generates with one model of a server."""

    streams = True

    def __init__(self, server: Server, model: str, renderer: Any) -> None:
        self.server, self.model, self.renderer = server, model, renderer
        bos = renderer.backbone.template.bos
        adds = bool(bos) and renderer.tokenizer("a")["input_ids"][:1] == renderer.tokenizer.encode(
            bos, add_special_tokens=False
        )
        self._added = bos if adds and server.api == "text" else ""
        self._told: set[str] = set()

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = unwatched
    ) -> Iterator[tuple[int, Written | Failure]]:
        requests = ((str(number), prompt) for number, prompt in enumerate(prompts))

        async def send(client: "AsyncOpenAI", prompt: Prompt) -> Any:
            request = self._request(prompt, decoding)
            model, asked = request.pop("model"), request.pop("prompt")
            return await client.completions.with_raw_response.create(model=model, prompt=asked, extra_body=request)

        for key, found in RequestPool(self.server, requests, send, self._read, text_of=lambda one: one.text).results():
            advance(1)
            yield int(key), found

    def _request(self, prompt: Prompt, decoding: Decoding) -> dict[str, Any]:
        text = self.server.api == "text"
        request = {
            "model": self.model,
            "prompt": self.renderer.broken(prompt.text).removeprefix(self._added) if text else prompt.ids,
            "max_tokens": prompt.most(decoding),
            "temperature": decoding.temperature,
        }
        if decoding.temperature:
            request |= {"top_p": decoding.top_p, "seed": decoding.seed_of(prompt.name)}
            if decoding.top_k is not None:
                request["top_k"] = decoding.top_k
        if decoding.repetition_penalty != 1.0:
            request["repetition_penalty"] = decoding.repetition_penalty
        return request | dict(self.server.extra)

    def _read(self, body: bytes) -> Written | FailedTry:
        try:
            completion = json_of(body)
            choices, served = completion["choices"], completion.get("model")
            text, finish = choices[0]["text"], choices[0]["finish_reason"]
            text.encode()  # fails on a lone surrogate
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return FailedTry("the server's answer is no completion", "outage")
        if completion.get("error"):
            return FailedTry("the server's answer holds an error", "outage")
        if len(choices) != 1:
            return FailedTry(f"the server gave {len(choices)} answers to one prompt", "outage")
        if finish == "content_filter":
            return FailedTry("the server's filter stopped the answer", "refused")
        if finish not in ("stop", "length"):
            return FailedTry(f"the server ended the answer with {word(finish)!r}", "outage")
        name = word(served)
        if name not in self._told and is_other_model(name, self.model):  # such as the backbone without its adapter
            shown = scrub(name, self.server.key())
            log.warning("generate  asked for %s, and the server says that %s answered", self.model, shown)
        self._told.add(name)
        return Written(text.removesuffix(self.renderer.backbone.template.end), finish)


def _load_adapter(server: Server, name: str, adapter: Path) -> None:
    """Ask the server to load an adapter under `name`, unless it already has it. Raises ValueError on failure."""
    import httpx

    headers = {"Authorization": f"Bearer {server.key()}"}
    root = server.base_url.rstrip("/")
    try:
        with httpx.Client(headers=headers, timeout=LOAD_TIMEOUT_S) as client:
            known = {model["id"] for model in client.get(f"{root}/models").raise_for_status().json()["data"]}
            if name in known:
                return
            asked = {"lora_name": name, "lora_path": str(adapter.resolve())}
            done = client.post(f"{root}/load_lora_adapter", json=asked)
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"generation.base_url={server.base_url}: the server cannot be asked for its models ({type(error).__name__})"
        ) from error
    if done.status_code != 200:
        raise ValueError(
            f"generation.loads_adapters=true: the server does not load the adapter {name} (HTTP {done.status_code}); "
            "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora, or name the adapter when starting "
            "it and set loads_adapters=false"
        )
