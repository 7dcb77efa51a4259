"""The engine that is a server with OpenAI's completions: vLLM, SGLang, llama.cpp, `transformers serve`.

Prompts go as tokens where the server takes them (`api: tokens`), so that it sees, id for id, what was trained on. Else
they go as rendered text (`api: text`), less the beginning token where the server's tokenizer adds one: there is exactly
one. The server's tokenizer cannot tell who wrote a special token, so those that somebody said are broken by a blank. An
adapter is a model name of its own on the server (vLLM's multi-LoRA), so the backbone and all adapters of a sweep share
one server; vLLM can be told to load it. How the server is asked again is in `alttrain.llm`.
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
"""Seconds that loading an adapter may take the server."""


@dataclass(frozen=True)
class Server(ServerSettings, EngineConfig):
    """A server that runs already.

    `model_name` is the backbone's name there. `adapter_name` is the trained adapter's ("{run}" is the run's name);
    with `loads_adapters` the server is told to load it, which vLLM does where VLLM_ALLOW_RUNTIME_LORA_UPDATING is set.
    `chunk` prompts are handed over at a time.
    """

    adapter_name: Annotated[str, MinLen(1)] = "{run}"
    loads_adapters: bool = False
    api: Literal["tokens", "text"] = "tokens"
    concurrency: Annotated[int, Gt(0)] = 64
    timeout_s: Annotated[float, Gt(0)] = 600.0
    chunk: Annotated[int, Gt(0)] = 4096

    where: ClassVar[str] = "generation"

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        """Raise ValueError where its key is not in the environment, or the protocol wants the weights quantised."""
        super().check(quantization, gpu)
        self.key()

    @contextmanager
    def start(self, model: Model) -> Iterator["ServerEngine"]:
        """Ask for the backbone, or for what a run trained. Raises ValueError where the server does not have it."""
        trained = model.adapter or model.trained
        name = self.adapter_name.replace("{run}", model.run) if trained else self.model_name
        if model.adapter and self.loads_adapters:
            _load_adapter(self, name, model.adapter)
        yield ServerEngine(self, name, model.renderer)


class ServerEngine:
    """Asks one model of a server."""

    streams = True

    def __init__(self, server: Server, model: str, renderer: Any) -> None:
        self.server = server
        self.model = model
        self.renderer = renderer
        bos = renderer.backbone.template.bos
        adds = bool(bos) and renderer.tokenizer("a")["input_ids"][:1] == renderer.tokenizer.encode(
            bos, add_special_tokens=False
        )
        self._added = bos if adds and server.api == "text" else ""
        self._told: set[str] = set()

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = unwatched
    ) -> Iterator[tuple[int, Written | Failure]]:
        """Answers as they come."""
        requests = ((str(number), prompt) for number, prompt in enumerate(prompts))

        async def send(client: "AsyncOpenAI", prompt: Prompt) -> Any:
            return await self._send(client, self._request(prompt, decoding))

        for key, found in RequestPool(self.server, requests, send, self._read, text_of=lambda one: one.text).results():
            advance(1)
            yield int(key), found

    def _request(self, prompt: Prompt, decoding: Decoding) -> dict[str, Any]:
        asked = (
            prompt.ids if self.server.api == "tokens" else self.renderer.broken(prompt.text).removeprefix(self._added)
        )
        request = {
            "model": self.model,
            "prompt": asked,
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

    async def _send(self, client: "AsyncOpenAI", request: dict[str, Any]) -> Any:
        options = {key: value for key, value in request.items() if key not in ("model", "prompt")}
        return await client.completions.with_raw_response.create(
            model=request["model"], prompt=request["prompt"], extra_body=options
        )

    def _read(self, body: bytes) -> Written | FailedTry:
        try:
            completion = json_of(body)
            choices, served = completion["choices"], completion.get("model")
            text, finish = choices[0]["text"], choices[0]["finish_reason"]
            text.encode()  # half a surrogate pair is no text
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
        self._notice(served)
        return Written(text.removesuffix(self.renderer.backbone.template.end), finish)

    def _notice(self, served: object) -> None:
        """Warn once of each other model than was asked for, such as a backbone without its adapter."""
        name = word(served)
        if name not in self._told and is_other_model(name, self.model):
            log.warning(
                "generate  asked for %s, and the server says that %s answered",
                self.model,
                scrub(name, self.server.key()),
            )
        self._told.add(name)


def _load_adapter(server: Server, name: str, adapter: Path) -> None:
    """Have the server load an adapter under a name, unless it has it. Raises ValueError where it does not."""
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
