"""A writer that is a server with OpenAI's chat completions: OpenAI itself, vLLM, `transformers serve`, llama.cpp.

How it is asked, and when it is asked again, is `alttrain.serving`'s.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, MinLen

from alttrain.rewrite.teachers.cache import Reply
from alttrain.rewrite.teachers.desk import Desk
from alttrain.serving import Exchange, Failure, Fault, check_url, json_of, verify_server, word

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass(frozen=True)
class ServerWriter:
    """Asks `model` at `base_url` (which ends in /v1).

    `key_variable` names the environment variable that holds the key; none is sent where it is null. `attempts` is the
    number of tries of one request, `timeout_s` the longest of one try; pauses grow from `backoff_s` by doubling up to
    `longest_pause_s`, which bounds Retry-After too. `extra` goes into the request's body as it is (vLLM's
    chat_template_kwargs). A null `temperature` is not sent. The limits are no part of a reply's key; the address is.
    """

    base_url: Annotated[str, MinLen(1)]
    model_name: Annotated[str, MinLen(1)]
    key_variable: str | None = None
    temperature: Annotated[float, Ge(0)] | None = 0.0
    max_tokens: Annotated[int, Gt(0)] = 256
    extra: dict[str, Any] = field(default_factory=dict)
    concurrency: Annotated[int, Gt(0)] = 8
    attempts: Annotated[int, Gt(0)] = 6
    timeout_s: Annotated[float, Gt(0)] = 60.0
    backoff_s: Annotated[float, Ge(0)] = 1.0
    longest_pause_s: Annotated[float, Ge(0)] = 60.0

    def __post_init__(self) -> None:
        check_url(self.base_url, "writer")

    @property
    def sampling(self) -> Mapping[str, Any]:
        """What the request says besides model and messages."""
        temperature = {} if self.temperature is None else {"temperature": self.temperature}
        return {**temperature, "max_tokens": self.max_tokens, **self.extra}

    def model(self, desk: Desk) -> str:
        """The model's name, and on which server: another server's model of this name may be another."""
        return f"{self.model_name} at {self.base_url.rstrip('/')}"

    def verify(self, where: str) -> None:
        """Raise ValueError where the key is not set, no server answers, or it has no such model."""
        verify_server(self, where)

    def write(
        self, prompts: Mapping[str, str], desk: Desk, keep: Callable[[str, Reply], Reply]
    ) -> Iterator[tuple[str, Reply | Failure]]:
        """Answer the prompts as the replies come. Raises ValueError where the key's variable is not set."""
        return Exchange(self, "writer", prompts.items(), self._send, keep).settle()

    async def _send(self, client: "AsyncOpenAI", prompt: str) -> Reply | Fault:
        raw = await client.chat.completions.with_raw_response.create(
            model=self.model_name,
            messages=[{"role": "user", "content": prompt}],
            extra_body=dict(self.sampling),
        )
        return _read(raw.http_response.content)


ENDED = ("stop", "eos")
"""How a whole reply ends; "eos" is Together's word."""


def _read(body: bytes) -> Reply | Fault:
    """The reply in a chat completion's body. One that ended in an unknown way is none, and so is one of several."""
    try:
        completion = json_of(body)
        choices, served = completion["choices"], completion.get("model")
        message, finish = choices[0]["message"], choices[0].get("finish_reason")
        content, beside = message["content"], [part for part in ("refusal", "tool_calls") if message.get(part)]
        f"{content}".encode()  # half a surrogate pair is no text
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Fault("the server's answer is no chat completion", "retry")
    if completion.get("error"):
        return Fault("the server's answer tells an error", "retry")
    if beside:
        return Fault(f"the reply comes with {' and '.join(beside)}", "respond")
    if len(choices) != 1:
        return Fault(f"the server gave {len(choices)} replies to one prompt", "respond")
    if finish == "content_filter":
        return Fault("the server's filter stopped the reply", "row")
    if finish == "length":
        return Fault("the reply was cut at writer.max_tokens", "respond")
    if finish not in ENDED:
        return Fault(f"the server ended the reply with {word(finish)!r}", "respond")
    if not isinstance(content, str) or not content.strip():
        return Fault("the reply is empty", "respond")
    return Reply(content, word(served))
