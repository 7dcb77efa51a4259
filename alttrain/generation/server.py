"""The engines for a server with OpenAI's completions API: vLLM, SGLang, llama.cpp, `transformers serve`.

With `api: tokens`, prompts are sent as token ids, so the model sees exactly the ids used in training. With `api: text`
or `transformers`, they are sent as rendered text, without the beginning token if the server's tokenizer adds it. The
server's tokenizer cannot tell the template's special tokens from those in a user's text, so the latter are disabled by
a space. Some tokenizers split line breaks before a word in another way than at the end of a text. Where the ids of a
response's beginning show that, its white space is not sent, and the model has to write it. An adapter is a separate
model name on the server (vLLM's multi-LoRA), so one server serves the backbone and all adapters of a sweep; vLLM can
load an adapter on request. `alttrain.llm` implements retries.

A request says everything about the choice of tokens, because a server takes what is left out from its own defaults, or
from the model's generation_config. `transformers serve` takes some of it only as JSON (`api: transformers`).

Each sample of a prompt is a request with a seed of its own (`Decoding.seed_of`), so that a lost one is asked for again
alone and comes out the same. One request for several (`n`) would leave the seeds to the server, and saves little: vLLM
takes such a request apart into one for each sample, and computes a prompt that it has in its cache once anyway.

A server that is started for a stage writes to server.log in the run's folder. It has a process group of its own and is
stopped with the stage, on any exception, and when this process is killed (on Linux): a leftover server holds the GPU.
"""

import ctypes
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Gt, MinLen

from alttrain.backbone.config import Trainable
from alttrain.backbone.memory import Quantization
from alttrain.backbone.template import Rendered
from alttrain.generation.engine import Completion, Decoding, EngineConfig, Model, Prompt, ignore_progress
from alttrain.llm import (
    GIVEN_UP,
    FailedTry,
    Failure,
    RequestPool,
    ServerSettings,
    is_other_model,
    json_of,
    printable_name,
    scrub,
)
from alttrain.records import checksum

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 300.0  # that a server may take to load an adapter
ENDING_S = 15.0  # that a server has to stop after SIGTERM
TOLD_LINES = 5  # of the server's output in an error
OTHER_TOKENS = (
    "the server would read the beginning in other tokens than meant; use tag=NAME with an engine that takes ids"
)
EXTRA: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("skip_special_tokens", "spaces_between_special_tokens", "cache_prompt"), (False, True)),
    "top_k": (0, -1),  # how a server calls all tokens
    "repeat_penalty": (None,),  # how a server calls the protocol's penalty
}
"""What `extra` may hold: fields that do not change the decoding, which is the protocol's and in a number's hash."""
ELSEWHERE = "the model does not write the white space that ends the beginning, which the server takes as text"


@dataclass(frozen=True)
class Server(ServerSettings, EngineConfig):
    """A server that is already running. `model_name` is the backbone's name on it.

    Raises ValueError for a field in `extra` that changes the decoding, such as temperature.
    """

    adapter_name: Annotated[str, MinLen(1)] = "{run}"  # of the trained adapter; "{run}" is the run's name
    # ask it to load the adapter, as adapter_name-DIGEST; vLLM needs VLLM_ALLOW_RUNTIME_LORA_UPDATING set
    loads_adapters: bool = False
    api: Literal["tokens", "text", "transformers"] = "tokens"
    concurrency: Annotated[int, Gt(0)] = 64
    timeout_s: Annotated[float, Gt(0)] = 600.0
    chunk: Annotated[int, Gt(0)] = 4096

    where: ClassVar[str] = "generation"
    loads_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.extra.items():
            if value not in EXTRA.get(name, ()):
                accepted = "; ".join(f"{key}: {' or '.join(map(json.dumps, values))}" for key, values in EXTRA.items())
                raise ValueError(
                    f"extra.{name}={json.dumps(value)}: accepted: {accepted}; for the decoding, set protocol.decoding"
                )

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        super().check(quantization, gpu)
        self.key()

    def check_served(self, run: str, adapter: Trainable | None, trained: bool) -> None:
        models = {"model_name": self.model_name} if adapter is None else {}
        if adapter is not None and trained and not (self.loads_adapters and adapter.freezes):
            models = {"adapter_name": self._adapter_of(run)}
        self.check_server(self.where, models)

    def check_delimiters(self, renderer: Any) -> None:
        """Raise ValueError if the server would leave out what tells the thought from the answer: special tokens."""
        template, keeps = renderer.backbone.template, self.extra.get("skip_special_tokens") is False
        written = template.think_close + (template.think_open if template.opened_by == "model" else "")
        special = (str(token) for token in renderer.tokenizer.added_tokens_decoder.values() if token.special)
        left_out = next((token for token in special if token in written), None)
        if left_out is None or (keeps and self.api != "transformers"):
            return
        remedy = "skip_special_tokens: false in extra (generation.extra, generation.server.extra), which vLLM obeys"
        if self.api == "transformers":
            remedy = "generation=in_process or vllm: `transformers serve` always leaves them out"
        raise ValueError(
            f"the delimiter {left_out!r} between thought and answer is a special token, which a server leaves out of "
            f"its text by default; set {remedy}"
        )

    def _adapter_of(self, run: str) -> str:
        return self.adapter_name.replace("{run}", run)

    @contextmanager
    def start(self, model: Model) -> Iterator["ServerEngine"]:
        trained = model.adapter or model.trained
        name = self._adapter_of(model.run) if trained else self.model_name
        if model.adapter and self.loads_adapters:
            # the server may still have an earlier training's adapter under the run's name
            files = [f"{file.name} {checksum(file)}" for file in sorted(model.adapter.glob("adapter_*"))]
            name += f"-{hashlib.sha256(' '.join(files).encode()).hexdigest()[:8]}"
            _load_adapter(self, name, model.adapter)
        yield ServerEngine(self, name, model.renderer)


class ServerEngine:
    """Generates with one model of a server."""

    streams = True

    def __init__(self, server: Server, model: str, renderer: Any) -> None:
        server.check_delimiters(renderer)
        self.server, self.model, self.renderer = server, model, renderer
        self._as_text = server.api != "tokens"
        bos, tokenizer = renderer.backbone.template.bos, renderer.tokenizer
        begins = tokenizer("a")["input_ids"][:1] == tokenizer.encode(bos, add_special_tokens=False)
        self._added = bos if begins and self._as_text else ""  # by the server's tokenizer too
        self._reported: set[str] = set()

    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Callable[[int], None] = ignore_progress
    ) -> Iterator[tuple[int, Completion | Failure]]:
        async def send(client: "AsyncOpenAI", prompt: Prompt) -> Any:
            request = self._request(prompt, decoding)
            model, content = request.pop("model"), request.pop("prompt")
            return await client.completions.with_raw_response.create(model=model, prompt=content, extra_body=request)

        spellings = [
            prompt_as_text(prompt, self.renderer, decoding) if self._as_text else (prompt, "") for prompt in prompts
        ]
        sent = {number: spelling[0] for number, spelling in enumerate(spellings) if spelling is not None}
        pool = RequestPool(self.server, sent.items(), send, self._read, text_of=lambda prompt: prompt.text)
        for number, result in pool.results():
            if result != Failure(GIVEN_UP, final=False):
                advance(1)
            end = spellings[number][1]  # type: ignore[index]
            if isinstance(result, Completion) and end:
                written, goes_on = Completion(result.text.removeprefix(end), result.finish), result.text.startswith(end)
                yield number, written if goes_on else Failure(ELSEWHERE, final=True)
            else:
                yield number, result
        unsent = [number for number, spelling in enumerate(spellings) if spelling is None]
        advance(len(unsent))
        yield from ((number, Failure(OTHER_TOKENS, final=True)) for number in unsent)

    def _request(self, prompt: Prompt, decoding: Decoding) -> dict[str, Any]:
        content: Any = prompt.ids
        if self._as_text:
            content = self.renderer.escape_special_tokens(prompt.text).removeprefix(self._added)
        request = {"model": self.model, "prompt": content}
        request |= {"max_tokens": prompt.max_new_tokens(decoding), "temperature": decoding.temperature}
        choice: dict[str, Any] = {"repetition_penalty": decoding.repetition_penalty}
        if self.server.api == "tokens":  # its ids are ours, and the model's own end may be another than the template's
            request["stop_token_ids"] = [self.renderer.end_id]
        if decoding.temperature:
            request |= {"top_p": decoding.top_p, "seed": decoding.seed_of(prompt.name)}
            choice |= {"top_k": decoding.top_k or self.server.extra.get("top_k", -1), "min_p": 0.0}
        if "repeat_penalty" in self.server.extra:
            choice["repeat_penalty"] = decoding.repetition_penalty
        if self.server.api == "transformers":
            choice |= {"do_sample": decoding.temperature > 0, "top_k": decoding.top_k or 0}
            choice = {"generation_config": json.dumps(choice)}
        return dict(self.server.extra) | request | choice

    def _read(self, body: bytes) -> Completion | FailedTry:
        try:
            completion = json_of(body)
            choices, name = completion["choices"], printable_name(completion.get("model"))
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
            return FailedTry(f"the server ended the answer with {printable_name(finish)!r}", "outage")
        if name not in self._reported and is_other_model(name, self.model):  # such as the backbone without its adapter
            served = scrub(name, self.server.key())
            log.warning("generate  asked for %s, and the server says that %s answered", self.model, served)
        self._reported.add(name)
        return Completion(text.removesuffix(self.renderer.backbone.template.end), finish)


def prompt_as_text(prompt: Prompt, renderer: Any, decoding: Decoding) -> tuple[Prompt, str] | None:
    """Return a prompt whose ids are those of its text, and the white space after it, which the model has to write.

    None if the text has other ids even without the white space at its end.
    """
    if renderer.encode(prompt.text) == prompt.ids:
        return prompt, ""
    pieces = list(getattr(prompt.text, "pieces", ("", prompt.text)))
    while len(pieces) > 1 and not pieces[-1]:
        pieces.pop()
    bare = pieces[-1].rstrip()
    end, text = pieces[-1][len(bare) :], Rendered(*pieces[:-1], bare)
    ids = renderer.encode(text)
    if ids != prompt.ids[: len(ids)]:
        return None
    return replace(prompt, ids=ids, text=text, cap=prompt.max_new_tokens(decoding) + len(prompt.ids) - len(ids)), end


def _load_adapter(server: Server, name: str, adapter: Path) -> None:
    """Ask the server to load an adapter under `name`, unless it already has it. Raises ValueError on failure."""
    import httpx

    headers, root = {"Authorization": f"Bearer {server.key()}"}, server.base_url.rstrip("/")
    try:
        with httpx.Client(headers=headers, timeout=LOAD_TIMEOUT_S) as client:
            models = client.get(f"{root}/models").raise_for_status().json()["data"]
            if name in {model["id"] for model in models}:
                return
            request = {"lora_name": name, "lora_path": str(adapter.resolve())}
            answer = client.post(f"{root}/load_lora_adapter", json=request)
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        fault = f"the server cannot be asked for its models ({type(error).__name__})"
        raise ValueError(f"generation.base_url={server.base_url}: {fault}") from error
    if answer.status_code != 200:
        raise ValueError(
            f"generation.loads_adapters=true: the server does not load the adapter {name} (HTTP {answer.status_code}); "
            "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora, or name the adapter when starting "
            "it and set loads_adapters=false"
        )


@dataclass(frozen=True)
class ChildServer(EngineConfig):
    """Starts a server for a stage.

    In its command and `model_name`, {model} is the folder of the weights, {name} the model's name, {port} a free port,
    {run} the run's name and {adapter} the adapter's folder. The server is ready once its /health answers 200.
    """

    server: Server  # how it is asked
    command: Annotated[Sequence[str], MinLen(1)]
    with_adapter: Sequence[str] = ()  # added to the command if there is an adapter
    start_s: Annotated[float, Gt(0)] = 900.0  # seconds within which it must be ready

    @property
    def chunk(self) -> int:
        return self.server.chunk

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        super().check(quantization, gpu)
        if shutil.which(self._program()) is None:
            raise self._not_started("there is no such program")

    def check_served(self, run: str, adapter: Trainable | None, trained: bool) -> None:
        if adapter is not None and adapter.freezes and not self.with_adapter:
            raise self._without_adapter()

    def check_delimiters(self, renderer: Any) -> None:
        self.server.check_delimiters(renderer)

    @contextmanager
    def start(self, model: Model) -> Iterator[ServerEngine]:
        """Start the server; it stops with the context. Raises ValueError with the end of its log on failure."""
        if model.adapter and not self.with_adapter:
            raise self._without_adapter()
        self.check_delimiters(model.renderer)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        # the model's name is first, since it may contain the others
        words = {"{name}": self.server.model_name, "{model}": str(model.weights()), "{run}": model.run}
        words["{port}"] = address.rpartition(":")[2]
        words["{adapter}"] = str(model.adapter.resolve()) if model.adapter else ""

        def filled(text: str) -> str:
            for name, value in words.items():
                text = text.replace(name, value)
            return text

        command = [self._program(), *self.command[1:], *(self.with_adapter if model.adapter else ())]
        with _asked_directly("127.0.0.1"), self._running([filled(part) for part in command], model.log) as child:
            self._await(child, f"{address}/health", model.log)
            server = replace(self.server, base_url=f"{address}/v1", model_name=filled(self.server.model_name))
            with server.start(replace(model, trained=None)) as engine:
                yield engine

    @contextmanager
    def _running(self, command: Sequence[str], output: Path) -> Iterator["subprocess.Popen[bytes]"]:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as file:
            try:
                child = subprocess.Popen(
                    command,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
            except OSError as error:
                raise self._not_started(str(error.strerror)) from error
        try:
            yield child
        finally:
            _end(child)

    def _without_adapter(self) -> ValueError:
        remedy = f"{self.command[0]} serves no adapters; choose generation=in_process, or vllm"
        return ValueError(f"generation.with_adapter=[]: {remedy}")

    def _program(self) -> str:
        """Return the program's name; if it is not on the PATH, its path in this Python environment."""
        path = Path(sys.executable).parent / self.command[0]
        return str(path) if shutil.which(self.command[0]) is None and path.exists() else self.command[0]

    def _not_started(self, reason: str) -> ValueError:
        remedy = "install it, or start a server yourself and use generation=server"
        return ValueError(f"generation.command: {self.command[0]!r} cannot be started ({reason}); {remedy}")

    def _await(self, child: "subprocess.Popen[bytes]", address: str, output: Path) -> None:
        import urllib.request  # here: start-up takes less time without it

        log.info("generate  waiting for %s; its output is in %s", self.command[0], output)
        until = time.monotonic() + self.start_s
        while time.monotonic() < until:
            if child.poll() is not None:
                ended = f"generation.command ended with {child.returncode} before it was ready"
                raise ValueError(f"{ended}:\n{_end_of(output)}")
            with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.2)
        raise ValueError(f"generation.start_s={self.start_s:g}: the server was not ready in time:\n{_end_of(output)}")


@contextmanager
def _asked_directly(host: str) -> Iterator[None]:
    """Have a host asked by no proxy of the environment, which may not know it."""
    import urllib.request

    earlier = os.environ.get("no_proxy")
    if not urllib.request.proxy_bypass(host):
        os.environ["no_proxy"] = f"{urllib.request.getproxies().get('no', '')},{host}"
    try:
        yield
    finally:
        os.environ.pop("no_proxy", None)
        if earlier is not None:
            os.environ["no_proxy"] = earlier


def _end(child: "subprocess.Popen[Any]") -> None:
    """Stop a process group with SIGTERM, and with SIGKILL if that takes too long."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(child.pid, number)
            child.wait(ENDING_S)
    child.wait()


def _end_with_parent() -> None:
    """Run in the child before exec: have the kernel send SIGTERM to it when the parent dies (Linux only)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # of linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _end_of(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line[:200]}" for line in lines[-TOLD_LINES:])
