"""Language models behind servers with OpenAI's API, used by teachers, judges and the server engine.

- `ServerSettings`  address and request settings of a server; its `check_server` tests that it can be used
- `RequestPool`     sends many requests concurrently, with retries; gives an answer or a `Failure` for each
- `llm.replies`     gets chat completions, and stores every reply for all runs

The `openai` client retries transient failures (no connection, time-out, 408, 409, 429, 5xx) with its back-off, or after
the server's Retry-After. Replies that are not usable (no completion, empty, cut) are requested again here. A server is
given up when one request fails in all its tries while no other is answered, or when it refuses every request for the
same cause (key, model, quota). Requests in flight finish first. Redirects are not followed.

API keys are read from the environment and removed from everything that a server sends, so that no config, file, log or
message contains them. A refused prompt's message quotes the server unless that repeats the prompt or a key.
"""

import asyncio
import functools
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

from annotated_types import Gt, MinLen

from alttrain.config.secrets import secrets

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

log = logging.getLogger(__name__)

HOPELESS_CODES = ("insufficient_quota", "unsupported_parameter", "unsupported_value", "model_not_found")
"""Error codes that every further request would get too, whatever its status."""
GIVEN_UP = "the server was given up"  # the reason of a request that was not sent, because others before it failed
CHECK_TIMEOUT_S = 5.0  # within which a server must list its models
LONGEST_PAUSE_S = 120.0  # the longest Retry-After that the `openai` client follows
PAUSE_S = 1.0  # before an unusable reply is requested again
REFUSED_AT_FIRST = 16  # refused prompts after which a server is given up that has answered none
NEARLY_ALL = 0.9  # share of failed prompts from which the server, not the prompts, is the cause
QUOTED = 200  # most characters of a server's own words in a message
REPEATED = 20  # characters of a piece of the prompt that a message must not repeat
ACCOUNT_KEY = "OPENAI_API_KEY"  # with this key go the account's headers: OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS, ...
SHORTEST_KEY = 8  # characters of a key that is removed from texts; shorter ones ("none") occur as ordinary words

_CODE = re.compile(r"[a-z_]{3,40}")
_SNAPSHOT = re.compile(r"([-@:](\d{4}-\d{2}-\d{2}|\d{3,8}|latest|main))?")

Key = TypeVar("Key")
Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ServerSettings:
    """Address and request settings of a server. Raises ValueError if `base_url` is not an HTTP address."""

    base_url: Annotated[str, MinLen(1)]  # the API's address, which ends in /v1
    model_name: Annotated[str, MinLen(1)]
    key_variable: str | None = None  # the environment variable with the API key; None for a server without one
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields added to each request's body
    concurrency: Annotated[int, Gt(0)] = 8  # requests in flight at a time
    attempts: Annotated[int, Gt(0)] = 6  # tries of each request
    timeout_s: Annotated[float, Gt(0)] = 60.0  # of each try

    where: ClassVar[str] = "server"  # the config key of these settings, for messages

    def __post_init__(self) -> None:
        url = self.base_url
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{self.where}.base_url={url!r}: expected a URL such as http://localhost:8000/v1")

    def key(self, where: str = "") -> str:
        """The server's API key. Raises ValueError, naming the config key below `where`, if it is not set or no key."""
        if self.key_variable is None:
            return "none"  # without a key, the client would send OPENAI_API_KEY to this server
        key = os.environ.get(self.key_variable, "").strip()
        variable = f"{where or self.where}.key_variable={self.key_variable}"
        if not key:
            remedy = "export it with the server's key, or set key_variable=null for a server that needs none"
            raise ValueError(f"{variable}: the environment has no such variable; {remedy}")
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"{variable}: its value is no key, since a request cannot hold all of its characters")
        return key

    def check_server(self, where: str, models: Mapping[str, str] | None = None) -> None:
        """Raise ValueError, naming the config key below `where`, if the key is not set or the server does not answer.

        If it lists its models (GET /models), those that are asked must be among them: `models` by their config key, by
        default `model_name`.
        """
        key, root = self.key(where), self.base_url.rstrip("/")
        offered = _models_at(root, key)
        if isinstance(offered, PermissionError):
            raise ValueError(f"{where}.key_variable={self.key_variable}: {offered}")
        if isinstance(offered, ConnectionError):
            raise ValueError(f"{where}.base_url={self.base_url}: {offered}")
        for name, model in ({"model_name": self.model_name} if models is None else models).items():
            if offered and model not in offered:
                listed = scrub(", ".join(offered[:8]), key) + (", ..." if len(offered) > 8 else "")
                raise ValueError(f"{where}.{name}={model}: the server at {root} does not offer it; it offers {listed}")


@dataclass(frozen=True)
class Failure:
    """A request without a usable answer. If `final`, the request is the cause; otherwise the server's state is."""

    reason: str
    final: bool


@dataclass(frozen=True)
class FailedTry:
    """A failed try. "outage" and "unusable" are tried again, unless the reply `repeats`: it would be the same.

    - "outage"    the server has a problem; if all tries fail, the request stays open
    - "unusable"  the server works, but the reply is not usable; if all tries fail, the request has failed
    - "refused"   this request cannot succeed
    - "fatal"     no request can succeed: the server is given up
    """

    reason: str
    kind: Literal["outage", "unusable", "refused", "fatal"]
    repeats: bool = False


def scrub(text: str, key: str = "") -> str:
    """The text without `key` and without the values of the environment's secrets."""
    replacements = {value: f"[${name}]" for value, name in secrets().items()}
    if len(key) >= SHORTEST_KEY:
        replacements.setdefault(key, "[key]")
    for value in sorted(replacements, key=len, reverse=True):
        text = text.replace(value, replacements[value])
    return text


def is_other_model(served: str, asked: str) -> bool:
    """Whether the server reports a model other than the requested one.

    A folder before the name, a date after it ("gpt-4o-2024-08-06"), "-latest" and an empty name do not count.
    """
    reported, requested = (name.casefold().rstrip("/").rpartition("/")[2] for name in (served, asked))
    requested = requested.removesuffix("-latest")
    return bool(reported) and not (reported.startswith(requested) and _SNAPSHOT.fullmatch(reported[len(requested) :]))


def json_of(body: bytes | str) -> Any:
    """Parse JSON. Raises ValueError if it is invalid, nested too deep, or gives one key different values."""
    try:
        return json.loads(body, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these (key, value) pairs. Raises ValueError if a key has different values."""
    merged = dict(pairs)
    if any(merged[key] is not value and merged[key] != value for key, value in pairs):
        raise ValueError("a key has two values")
    return merged


def printable_name(value: object) -> str:
    """A name from a server's answer if it fits in a message, else "". Half an API key would not be recognised."""
    return value if isinstance(value, str) and len(value) <= QUOTED and value.isprintable() else ""


def forget_servers() -> None:
    """Let `check_server` ask each server again. A plan and a run begin with this, and then ask each server once."""
    _models_at.cache_clear()


@functools.cache
def _models_at(root: str, key: str) -> list[str] | ConnectionError | PermissionError:
    """The models that a server lists, empty if it lists none, or why it cannot be used."""
    import httpx

    try:
        response = httpx.get(f"{root}/models", headers={"Authorization": f"Bearer {key}"}, timeout=CHECK_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: a host that is no name
        fault = f"no server answers there ({type(error).__name__}); start it, or set the address of one"
        return ConnectionError(fault)
    if response.status_code in (401, 403):
        return PermissionError(f"the server refuses the key in it (HTTP {response.status_code})")
    if httpx.URL(root).host.endswith(".azure.com"):  # Azure lists no deployments
        return []
    try:
        models = json_of(response.content)
        return [str(entry["id"]) for entry in (models["data"] if isinstance(models, dict) else models)]
    except (ValueError, LookupError, TypeError):
        return []


@dataclass
class RequestPool(Generic[Key, Request, Answer]):
    """Sends (key, request) pairs to a server, `server.concurrency` at a time, in one event loop."""

    server: ServerSettings
    requests: Iterable[tuple[Key, Request]]
    send: "Callable[[AsyncOpenAI, Request], Awaitable[Any]]"  # returns the raw response
    read: Callable[[bytes], Answer | FailedTry]  # the answer in a body, a dataclass; its `FailedTry` is never "fatal"
    keep: Callable[[Key, Answer], Answer] = lambda key, answer: answer  # on arrival; returns the answer that counts
    text_of: Callable[[Request], str] = str  # a request's prompt, which no message may repeat

    def __post_init__(self) -> None:
        self._key = self.server.key()
        self._waiting = iter(self.requests)
        self._settled: asyncio.Queue[tuple[Key, Answer | Failure] | None] = asyncio.Queue()
        self._given_up = False
        self._last_reply = 0.0

    def results(self) -> Iterator[tuple[Key, Answer | Failure]]:
        """Yield each key with its answer or failure, in order of arrival.

        If the server is given up, the keys that were not sent come last, as failures for `GIVEN_UP`.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            yield from self._results()
        else:  # a notebook's, beside which this thread can run no other: all results come at the end
            with ThreadPoolExecutor(1) as thread:
                yield from thread.submit(lambda: list(self._results())).result()

    def _results(self) -> Iterator[tuple[Key, Answer | Failure]]:
        refused: list[tuple[Key, Failure]] = []  # refused before any answer: the cause may be the prompt or the server
        with asyncio.Runner() as runner:
            work = runner.get_loop().create_task(self._work())
            while (settled := runner.run(self._settled.get())) is not None:
                key, outcome = settled
                if isinstance(outcome, Failure) and outcome.final and not self._last_reply:
                    refused.append((key, outcome))
                    self._given_up |= len(refused) == REFUSED_AT_FIRST
                else:
                    yield settled
            runner.run(asyncio.wait_for(work, None))
        final = bool(self._last_reply) or len(refused) < REFUSED_AT_FIRST
        yield from ((key, replace(failure, final=final)) for key, failure in refused)
        yield from ((key, Failure(GIVEN_UP, final=False)) for key, _ in self._waiting)

    async def _work(self) -> None:
        """Process requests until none is left or the server is given up, then put None in the queue."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        server = self.server
        http = DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"request": [self._leave_account_out]})
        try:
            async with AsyncOpenAI(
                base_url=server.base_url, api_key=self._key, timeout=server.timeout_s, http_client=http
            ) as client:
                await asyncio.gather(*(self._worker(client) for _ in range(server.concurrency)))
        finally:
            self._settled.put_nowait(None)

    async def _leave_account_out(self, request: Any) -> None:
        """Remove the headers that the `openai` client takes from the environment, whatever server it asks."""
        if self.server.key_variable == ACCOUNT_KEY:
            return
        lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
        for name in ("OpenAI-Organization", "OpenAI-Project", *(line.partition(":")[0].strip() for line in lines)):
            if name.lower() not in ("content-length", "content-type", "host"):  # the request needs these
                request.headers.pop(name, None)
        request.headers["Authorization"] = f"Bearer {self._key}"

    async def _worker(self, client: "AsyncOpenAI") -> None:
        for key, request in self._waiting:  # all workers share the iterator, so each request is taken once
            began = time.monotonic()
            outcome = await self._ask(client, request)
            if not isinstance(outcome, FailedTry) or outcome.kind == "unusable":
                self._last_reply = time.monotonic()
            if isinstance(outcome, FailedTry):
                log.debug("server %s: %s", self.server.model_name, outcome.reason)
                self._given_up |= outcome.kind == "fatal" or (outcome.kind == "outage" and self._last_reply < began)
                self._settled.put_nowait((key, Failure(outcome.reason, outcome.kind in ("refused", "unusable"))))
            else:
                self._settled.put_nowait((key, self.keep(key, outcome)))
            if self._given_up:
                return

    async def _ask(self, client: "AsyncOpenAI", request: Request) -> Answer | FailedTry:
        """One request's answer, with API keys removed. A time limit on all tries together ends replies that drip in."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        tries_left = self.server.attempts
        try:
            async with asyncio.timeout(tries_left * (self.server.timeout_s + LONGEST_PAUSE_S)):
                while True:
                    response = await self.send(client.with_options(max_retries=tries_left - 1), request)
                    tries_left -= 1 + response.retries_taken
                    outcome = self.read(response.content)
                    failed = isinstance(outcome, FailedTry) and outcome.kind != "refused" and not outcome.repeats
                    if not failed or tries_left == 0:
                        break
                    await asyncio.sleep(PAUSE_S)
        except (APITimeoutError, TimeoutError):
            outcome = FailedTry(f"the server did not answer within {self.server.timeout_s:g} s", "outage")
        except APIConnectionError as error:
            outcome = FailedTry(f"the connection to the server failed ({type(error.__cause__).__name__})", "outage")
        except APIStatusError as error:
            outcome = self._status_fault(error, self.text_of(request))
        texts = {name: text for name, text in vars(outcome).items() if isinstance(text, str)}
        return replace(outcome, **{n: scrub(text, self._key) for n, text in texts.items()})  # type: ignore[type-var]

    def _status_fault(self, error: "APIStatusError", prompt: str) -> FailedTry:
        status, code, where = error.status_code, printable_name(error.code), self.server.where
        status_text = f"HTTP {status}" + (f" {code}" if _CODE.fullmatch(code) else "")
        if moved := error.response.next_request:
            address = f"{moved.url.scheme}://{moved.url.netloc.decode()}{moved.url.path}"
            remedy = f"nothing was sent there; set {where}.base_url to the address that is to be asked"
            return FailedTry(f"the server sends the request on to {address}; {remedy}", "fatal")
        if code in HOPELESS_CODES:
            return FailedTry(f"the server refuses the request ({status_text})", "fatal")
        if status in (408, 409, 429) or status >= 500:
            return FailedTry(f"the server answers {status_text}", "outage")
        if status in (400, 413, 422):
            message = _server_message(error.body, prompt, self._key)
            return FailedTry(f"the server refuses the prompt ({status_text}{message and f': {message}'})", "refused")
        setting = f"{where}.base_url and model_name"
        if status in (401, 403):
            setting = f"the key in ${self.server.key_variable}"
        return FailedTry(f"the server refuses the request ({status_text}); check {setting}", "fatal")


def _server_message(body: object, prompt: str, key: str) -> str:
    """A server's words on a refused prompt, on one line; "" if there are none or they repeat prompt or key."""
    text = next((body[name] for name in ("message", "detail") if name in body), "") if isinstance(body, Mapping) else ""
    if not isinstance(text, str) or scrub(text, key) != text:
        return ""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * QUOTED]).split())[:QUOTED]
    flat = " ".join(prompt.split())
    repeats = any(line[start : start + REPEATED] in flat for start in range(max(0, len(line) - REPEATED + 1)))
    return "" if repeats or (flat and flat in line) else line
