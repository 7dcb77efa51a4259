"""Asking servers over HTTP: bounded concurrency, retries with back-off, each answer handed over when it comes.

For any server with OpenAI's API: OpenAI itself, vLLM, SGLang, llama.cpp, `transformers serve`. A try that fails for a
passing reason (no connection, time-out, 408, 409, 429, 5xx, a body that is no answer, an answer that is empty or cut)
is made again after a growing, jittered pause or what the server's Retry-After says. The server is given up as soon as
one request has used all its tries while no other got an answer, or where it refuses them all alike (key, model, quota);
requests in flight are settled first.

Keys are read from the environment when the first request is due. They are in no config, file, log or message: they are
taken out of whatever a server sends back before anybody sees it. Of a failed request the status, the server's error
code and the exception's class are told, and of a refused prompt the server's words, unless they repeat the prompt. A
redirect to another address is not followed: prompts and keys go where the config says, and nowhere else.
"""

import asyncio
import functools
import json
import logging
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from alttrain.config.secrets import secrets

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

log = logging.getLogger(__name__)

PASSING = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same request may succeed."""
ROW = frozenset({400, 413, 422})
"""Statuses that refuse one prompt: too long, or stopped by a filter."""
HOPELESS_CODES = frozenset({"insufficient_quota", "unsupported_parameter", "unsupported_value", "model_not_found"})
"""Error codes that every further request would meet too, whatever their status."""

VERIFY_TIMEOUT_S = 5.0
"""Seconds in which a server must say what models it has."""
NAMED = 8
"""Models of a server that one message names."""
REFUSED_AT_FIRST = 16
"""Requests refused one by one, and none answered: then it is the server, and it is given up."""
REFUSED = "the server refuses the prompt"
"""How the reason begins where a status refuses one prompt."""
NEARLY_ALL = 0.9
"""The share of its prompts that a server must fail for it to be the server's fault and not the prompts'."""
TOLD = 200
"""Characters of a server's own words that are told."""
QUOTED = 20
"""Characters of a prompt that a message must not repeat."""
SHORTEST_KEY = 8
"""Characters of the shortest key in use that is taken out of texts: a word such as "none" would be in many."""

_CODE = re.compile(r"[a-z_]{3,40}")
_SNAPSHOT = re.compile(r"([-@:](\d{4}-\d{2}-\d{2}|\d{3,8}|latest|main))?")

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Patience(Protocol):
    """How a server is asked; a config's class has these fields.

    `base_url` ends in /v1. `key_variable` names the environment variable that holds the key; none is sent where it is
    None. `attempts` is the number of tries of one request, `timeout_s` the longest of one try; pauses grow from
    `backoff_s` by doubling up to `longest_pause_s`, which bounds Retry-After too.
    """

    @property
    def base_url(self) -> str: ...
    @property
    def model_name(self) -> str: ...
    @property
    def key_variable(self) -> str | None: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def backoff_s(self) -> float: ...
    @property
    def longest_pause_s(self) -> float: ...


@dataclass(frozen=True)
class Failure:
    """A request without a usable answer. `final`: asking again would not help."""

    reason: str
    final: bool


@dataclass(frozen=True)
class Fault:
    """What went wrong in one try. `hope`: "retry" and the request stays open if it never succeeds; "respond", the
    server works but its answer is of no use: retry, then give the request up; "row": give it up now; "none": stop
    asking.
    """

    reason: str
    hope: Literal["retry", "respond", "row", "none"]
    retry_after_s: float = 0.0


def key_of(patience: Patience, where: str) -> str:
    """The server's key from the environment. Raises ValueError, naming the config's `where`, where it is not set."""
    if patience.key_variable is None:
        return "none"  # the client insists on one, and would else take OPENAI_API_KEY to a foreign server
    key = os.environ.get(patience.key_variable, "").strip()
    if not key:
        raise ValueError(
            f"{where}.key_variable={patience.key_variable}: the environment has no such variable; "
            "export it with the server's key, or set key_variable=null for a server that needs none"
        )
    return key


def scrub(text: str, key: str = "") -> str:
    """The text without the values of the environment's secrets, and without the key in use."""
    found = {value: f"[${name}]" for value, name in secrets().items()}
    if len(key) >= SHORTEST_KEY:
        found.setdefault(key, "[key]")
    for value in sorted(found, key=len, reverse=True):
        text = text.replace(value, found[value])
    return text


def _scrubbed(outcome: Answer, key: str) -> Answer:
    """An answer or a fault with the texts in it scrubbed."""
    texts = {name: text for name, text in vars(outcome).items() if isinstance(text, str)}
    return replace(outcome, **{name: scrub(text, key) for name, text in texts.items()})  # type: ignore[type-var]


def is_other_model(served: str, asked: str) -> bool:
    """Whether the name under which a server answered is that of another model than was asked for.

    A folder before the name, a date behind it ("gpt-4o" is served as "gpt-4o-2024-08-06") and an alias that ends in
    "latest" are no difference; neither is a server that tells no name.
    """
    names = (name.casefold().rstrip("/").rpartition("/")[2] for name in (served, asked))
    own, wanted = next(names), next(names).removesuffix("-latest")
    return bool(own) and not (own.startswith(wanted) and _SNAPSHOT.fullmatch(own[len(wanted) :]))


def json_of(body: bytes) -> Any:
    """A server's body as JSON. Raises ValueError where it is none, however deep it is nested, or contradicts itself."""
    try:
        return json.loads(body, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if any(found[key] is not value and found[key] != value for key, value in pairs):
        raise ValueError("a key has two values")
    return found


def word(value: object) -> str:
    """A name in a server's answer as it is told; "" where it is none. It is never cut: half a key is not scrubbed."""
    return value if isinstance(value, str) and len(value) <= TOLD and value.isprintable() else ""


def verify_server(patience: Patience, where: str) -> None:
    """Raise ValueError, naming the key below `where` to set, where a server cannot be asked for what it will be asked.

    Its key must be set, it must answer, and where it lists its models (GET /models) the model must be among them.
    """
    key = key_of(patience, where)
    if fault := _server_fault(patience.base_url.rstrip("/"), patience.model_name, key):
        name, reason = fault
        raise ValueError(f"{where}.{name}={getattr(patience, name)}: {reason}")


@functools.cache
def _server_fault(root: str, model: str, key: str) -> tuple[str, str] | None:
    """The setting that is wrong and why. Asked once a process, however many jobs a sweep has."""
    import httpx

    try:
        answer = httpx.get(f"{root}/models", headers={"Authorization": f"Bearer {key}"}, timeout=VERIFY_TIMEOUT_S)
    except httpx.HTTPError as error:
        return "base_url", f"no server answers there ({type(error).__name__}); start it, or set the address of one"
    if answer.status_code in (401, 403):
        return "key_variable", f"the server refuses the key in it (HTTP {answer.status_code})"
    try:
        listed = json_of(answer.content)
        offered = [str(entry["id"]) for entry in (listed["data"] if isinstance(listed, dict) else listed)]
    except (ValueError, LookupError, TypeError):
        return None  # a server without a list of models, which is told when it is asked
    if not offered or model in offered or httpx.URL(root).host.endswith(".azure.com"):  # whose deployments are unlisted
        return None
    named = ", ".join(offered[:NAMED]) + (", ..." if len(offered) > NAMED else "")
    return "model_name", f"the server at {root} does not offer it; it offers {scrub(named, key)}"


def check_url(base_url: str, where: str) -> None:
    """Raise ValueError where a server's address is none."""
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"{where}.base_url={base_url!r}: expected a URL such as http://localhost:8000/v1")


class Exchange(Generic[Request, Answer]):
    """Requests by key, made by `patience.concurrency` workers in one event loop.

    `send` makes one try with the client and reads what came, as a dataclass; `keep` is given every answer the moment it
    arrives. `text_of` is a request's prompt, which no message repeats.
    """

    def __init__(
        self,
        patience: Patience,
        where: str,
        requests: Iterable[tuple[str, Request]],
        send: "Callable[[AsyncOpenAI, Request], Awaitable[Answer | Fault]]",
        keep: Callable[[str, Answer], Answer] = lambda key, answer: answer,
        text_of: Callable[[Request], str] = str,
    ) -> None:
        self.patience = patience
        self.where = where
        self._key = key_of(patience, where)
        self._waiting = iter(requests)
        self._send = send
        self._keep = keep
        self._text_of = text_of

    def settle(self) -> Iterator[tuple[str, Answer | Failure]]:
        """Each key with its answer or why there is none, as they come; ends early where the server is given up."""
        held: list[tuple[str, Failure]] = []  # refused while nothing was answered: is it the request or the server?
        with asyncio.Runner() as runner:
            runner.run(self._begin())
            working = runner.get_loop().create_task(self._work())
            while (settled := runner.run(self._settled.get())) is not None:
                key, outcome = settled
                if isinstance(outcome, Failure) and outcome.final and not self._last_reply:
                    held.append((key, outcome))
                    if len(held) == REFUSED_AT_FIRST:
                        self._given_up.set()
                    continue
                yield settled
            runner.run(_result(working))
        final = bool(self._last_reply) or len(held) < REFUSED_AT_FIRST
        for key, failure in held:
            yield key, replace(failure, final=final)

    async def _begin(self) -> None:
        self._settled: asyncio.Queue[tuple[str, Answer | Failure] | None] = asyncio.Queue()
        self._given_up = asyncio.Event()
        self._last_reply = 0.0

    async def _work(self) -> None:
        """Settle requests until none is left or the server is given up; then put None."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        try:
            async with AsyncOpenAI(
                base_url=self.patience.base_url,
                api_key=self._key,
                timeout=self.patience.timeout_s,
                max_retries=0,
                http_client=DefaultAsyncHttpxClient(event_hooks={"request": [self._stay]}),
            ) as client:
                await asyncio.gather(*(self._worker(client) for _ in range(self.patience.concurrency)))
        finally:
            self._settled.put_nowait(None)

    async def _worker(self, client: "AsyncOpenAI") -> None:
        for key, request in self._waiting:  # one iterator for all workers: each request is taken once
            result = await self._settle(client, key, request)
            self._settled.put_nowait((key, result))
            if self._given_up.is_set():
                return

    async def _stay(self, request: Any) -> None:
        """Raise _ElsewhereError before a redirect takes a request to another address than the config's."""
        url = request.url
        home = type(url)(self.patience.base_url)
        if (url.scheme, url.host, url.port) != (home.scheme, home.host, home.port):
            raise _ElsewhereError(f"{url.scheme}://{url.netloc.decode('ascii').rpartition('@')[2]}")

    async def _settle(self, client: "AsyncOpenAI", key: str, request: Request) -> Answer | Failure:
        """One request's answer, in as many tries as it takes and may take."""
        began, attempt = time.monotonic(), 1
        while isinstance(outcome := await self._try(client, request), Fault):
            log.debug("server %s: try %d: %s", self.patience.model_name, attempt, outcome.reason)
            if outcome.hope == "respond":
                self._last_reply = time.monotonic()
            hopeless = outcome.hope in ("row", "none") or attempt == self.patience.attempts
            if hopeless or await self._stopped_after(self._pause(attempt, outcome.retry_after_s)):
                if outcome.hope == "none" or (outcome.hope == "retry" and self._last_reply < began):
                    self._given_up.set()
                return Failure(outcome.reason, final=outcome.hope in ("row", "respond"))
            attempt += 1
        self._last_reply = time.monotonic()
        return self._keep(key, outcome)

    async def _try(self, client: "AsyncOpenAI", request: Request) -> Answer | Fault:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        late = Fault(f"the server did not answer within {self.patience.timeout_s:g} s", "retry")
        try:
            async with asyncio.timeout(self.patience.timeout_s):
                return _scrubbed(await self._send(client, request), self._key)
        except (APITimeoutError, TimeoutError):
            return late
        except (APIConnectionError, _ElsewhereError) as error:
            for found in (error, error.__cause__):  # versions of the client differ in whether they wrap it
                if isinstance(found, _ElsewhereError):
                    return Fault(
                        f"the server sends the request on to {scrub(str(found), self._key)}; nothing was sent there; "
                        f"set {self.where}.base_url to the address that is to be asked",
                        "none",
                    )
            return Fault(f"the connection to the server failed ({type(error.__cause__).__name__})", "retry")
        except APIStatusError as error:
            return _scrubbed(self._status_fault(error, self._text_of(request)), self._key)

    def _status_fault(self, error: "APIStatusError", prompt: str) -> Fault:
        status, code = error.status_code, word(error.code)
        said = f"HTTP {status}" + (f" {code}" if _CODE.fullmatch(code) else "")
        if code in HOPELESS_CODES:
            return Fault(f"the server refuses the request ({said})", "none")
        if status in PASSING or status >= 500:
            return Fault(f"the server answers {said}", "retry", retry_after(error.response.headers))
        if status in ROW:
            words = _words(error.body, prompt, self._key)
            return Fault(f"{REFUSED} ({said}{words and f': {words}'})", "row")
        about = f"{self.where}.base_url and model_name"
        if status in (401, 403):
            about = f"the key in ${self.patience.key_variable}"
        return Fault(f"the server refuses the request ({said}); check {about}", "none")

    def _pause(self, attempt: int, retry_after_s: float) -> float:
        """Seconds to wait before the next try."""
        growing = self.patience.backoff_s * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)
        spread = random.uniform(0.0, self.patience.backoff_s)  # else all who were told the same second come together
        told = retry_after_s + spread if retry_after_s else 0.0
        return min(max(growing, told), self.patience.longest_pause_s)

    async def _stopped_after(self, seconds: float) -> bool:
        """Wait so long, and no longer once the server is given up; whether it was."""
        try:
            return await asyncio.wait_for(self._given_up.wait(), seconds)
        except TimeoutError:
            return False


class _ElsewhereError(Exception):
    """A redirect to another address, which it names."""


def _words(body: object, prompt: str, key: str) -> str:
    """What a server says of a refused prompt, on one line; "" where it says nothing, or repeats the prompt or a key."""
    said = next((body[name] for name in ("message", "detail") if name in body), "") if isinstance(body, Mapping) else ""
    if not isinstance(said, str) or scrub(said, key) != said:
        return ""
    line = " ".join("".join(c if c.isprintable() else " " for c in said[: 2 * TOLD]).split())[:TOLD]
    flat = " ".join(prompt.split())
    quotes = any(line[at : at + QUOTED] in flat for at in range(max(0, len(line) - QUOTED + 1)))
    return "" if quotes or (flat and flat in line) else line


async def _result(task: "asyncio.Task[None]") -> None:
    await task


def retry_after(headers: Mapping[str, str]) -> float:
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
    except (ValueError, OverflowError):
        return 0.0
