"""A writer that is a server with OpenAI's chat completions: OpenAI itself, vLLM, `transformers serve`, llama.cpp.

Requests run concurrently up to a bound. A try that fails for a passing reason (no connection, time-out, 408, 409, 429,
5xx, a body that is no completion, a reply that is empty or cut) is made again after a growing, jittered pause or what
the server's Retry-After says. The server is given up as soon as one request has used all its tries while no other got
a reply, or where it refuses them all alike (key, model, quota); requests in flight are settled first.

The key is read from the environment when the first request is due. It is in no config, file, log or message: of a
failed request only the status, the server's error code and the exception's class are told, never a body.
"""

import asyncio
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen

from alttrain.rewrite.teachers.cache import Reply
from alttrain.rewrite.teachers.desk import Desk, Failure

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

log = logging.getLogger(__name__)

PASSING = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same request may succeed."""
ROW = frozenset({400, 413, 422})
"""Statuses that refuse one prompt: too long, or stopped by a filter."""
HOPELESS_CODES = frozenset({"insufficient_quota", "unsupported_parameter", "unsupported_value", "model_not_found"})
"""Error codes that every further request would meet too, whatever their status."""

_CODE = re.compile(r"[a-z_]{3,40}")


@dataclass(frozen=True)
class ServerWriter:
    """Asks `model` at `base_url` (which ends in /v1).

    `key_variable` names the environment variable that holds the key; none is sent where it is null. `attempts` is the
    number of tries of one request, `timeout_s` the longest of one try; pauses grow from `backoff_s` by doubling up to
    `longest_pause_s`, which bounds Retry-After too. `extra` goes into the request's body as it is (vLLM's
    chat_template_kwargs). A null `temperature` is not sent. base_url and these limits are no part of a reply's key.
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
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"writer.base_url={self.base_url!r}: expected a URL such as http://localhost:8000/v1")

    @property
    def sampling(self) -> Mapping[str, Any]:
        """What the request says besides model and messages."""
        temperature = {} if self.temperature is None else {"temperature": self.temperature}
        return {**temperature, "max_tokens": self.max_tokens, **self.extra}

    def model(self, desk: Desk) -> str:
        """The model's name on the server."""
        return self.model_name

    def write(
        self, prompts: Mapping[str, str], desk: Desk, keep: Callable[[str, Reply], Reply]
    ) -> Iterator[tuple[str, Reply | Failure]]:
        """Answer the prompts as the replies come. Raises ValueError where the key's variable is not set."""
        exchange = _Exchange(self, self._key(), prompts, keep)
        with asyncio.Runner() as runner:
            working = runner.get_loop().create_task(exchange.work())
            while (settled := runner.run(exchange.settled.get())) is not None:
                yield settled
            runner.run(_result(working))

    def _key(self) -> str:
        if self.key_variable is None:
            return "none"  # the client insists on one, and would else take OPENAI_API_KEY to a foreign server
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ValueError(
                f"writer.key_variable={self.key_variable}: the environment has no such variable; "
                "export it with the server's key, or set key_variable=null for a server that needs none"
            )
        return key


@dataclass(frozen=True)
class _Fault:
    """What went wrong in one try. `hope`: "retry" and the row stays missing if it never succeeds; "respond", the server
    works but its reply is of no use: retry, then reject the row; "row": reject it now; "none": stop asking."""

    reason: str
    hope: Literal["retry", "respond", "row", "none"]
    retry_after_s: float = 0.0


class _Exchange:
    """The requests of one `write`, made by `concurrency` workers in one event loop."""

    def __init__(
        self, server: ServerWriter, key: str, prompts: Mapping[str, str], keep: Callable[[str, Reply], Reply]
    ) -> None:
        self.server = server
        self.settled: asyncio.Queue[tuple[str, Reply | Failure] | None] = asyncio.Queue()
        self._key = key
        self._workers = min(server.concurrency, len(prompts))
        self._waiting = iter(prompts.items())
        self._keep = keep
        self._given_up = asyncio.Event()
        self._last_reply = 0.0

    async def work(self) -> None:
        """Settle prompts until none is left or the server is given up; then put None."""
        from openai import AsyncOpenAI

        try:
            async with AsyncOpenAI(
                base_url=self.server.base_url, api_key=self._key, timeout=self.server.timeout_s, max_retries=0
            ) as client:
                await asyncio.gather(*(self._worker(client) for _ in range(self._workers)))
        finally:
            self.settled.put_nowait(None)

    async def _worker(self, client: "AsyncOpenAI") -> None:
        for key, prompt in self._waiting:  # one iterator for all workers: each prompt is taken once
            result = await self._settle(client, key, prompt)
            self.settled.put_nowait((key, result))
            if self._given_up.is_set():
                return

    async def _settle(self, client: "AsyncOpenAI", key: str, prompt: str) -> Reply | Failure:
        """One prompt's reply, in as many tries as it takes and may take."""
        began, attempt = time.monotonic(), 1
        while isinstance(outcome := await self._try(client, prompt), _Fault):
            log.debug("teacher %s: try %d: %s", self.server.model_name, attempt, outcome.reason)
            if outcome.hope == "respond":
                self._last_reply = time.monotonic()
            hopeless = outcome.hope in ("row", "none") or attempt == self.server.attempts
            if hopeless or await self._stopped_after(self._pause(attempt, outcome.retry_after_s)):
                if outcome.hope == "none" or (outcome.hope == "retry" and self._last_reply < began):
                    self._given_up.set()
                return Failure(outcome.reason, final=outcome.hope in ("row", "respond"))
            attempt += 1
        self._last_reply = time.monotonic()
        return self._keep(key, outcome)

    async def _try(self, client: "AsyncOpenAI", prompt: str) -> Reply | _Fault:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        late = _Fault(f"the server did not answer within {self.server.timeout_s:g} s", "retry")
        try:
            async with asyncio.timeout(self.server.timeout_s):
                raw = await client.chat.completions.with_raw_response.create(
                    model=self.server.model_name,
                    messages=[{"role": "user", "content": prompt}],
                    extra_body=dict(self.server.sampling),
                )
        except (APITimeoutError, TimeoutError):
            return late
        except APIConnectionError as error:
            return _Fault(f"the connection to the server failed ({type(error.__cause__).__name__})", "retry")
        except APIStatusError as error:
            return self._status_fault(error)
        return _read(raw.http_response.content)

    def _status_fault(self, error: "APIStatusError") -> _Fault:
        status, code = error.status_code, str(error.code)
        said = f"HTTP {status}" + (f" {code}" if error.code and _CODE.fullmatch(code) else "")
        if code in HOPELESS_CODES:
            return _Fault(f"the server refuses the request ({said})", "none")
        if status in PASSING or status >= 500:
            return _Fault(f"the server answers {said}", "retry", _retry_after(error.response.headers))
        if status in ROW:
            return _Fault(f"the server refuses the prompt ({said})", "row")
        about = f"the key in ${self.server.key_variable}" if status in (401, 403) else "writer.base_url and model_name"
        return _Fault(f"the server refuses the request ({said}); check {about}", "none")

    def _pause(self, attempt: int, retry_after_s: float) -> float:
        """Seconds to wait before the next try."""
        growing = self.server.backoff_s * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)
        spread = random.uniform(0.0, self.server.backoff_s)  # else all who were told the same second come together
        told = retry_after_s + spread if retry_after_s else 0.0
        return min(max(growing, told), self.server.longest_pause_s)

    async def _stopped_after(self, seconds: float) -> bool:
        """Wait so long, and no longer once the server is given up; whether it was."""
        try:
            return await asyncio.wait_for(self._given_up.wait(), seconds)
        except TimeoutError:
            return False


async def _result(task: "asyncio.Task[None]") -> None:
    await task


def _read(body: bytes) -> Reply | _Fault:
    """The reply in a chat completion's body."""
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        content, finish = choice["message"]["content"], choice.get("finish_reason")
        str(content).encode()  # half a surrogate pair is no text
    except (ValueError, LookupError, TypeError, AttributeError):
        return _Fault("the server's answer is no chat completion", "retry")
    if finish == "content_filter":
        return _Fault("the server's filter stopped the reply", "row")
    if finish == "length":
        return _Fault("the reply was cut at writer.max_tokens", "respond")
    if not isinstance(content, str) or not content.strip():
        return _Fault("the reply is empty", "respond")
    return Reply(content, str(completion.get("model") or ""))


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a Retry-After header asks for, given as such or as a date; 0 without one."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
