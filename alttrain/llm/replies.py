"""Replies of language models to prompts, each asked for once and stored for all runs.

- `replies`       reads the cache before it asks a `Writer`
- `ReplyCache`    the stored replies
- `ServerWriter`  gets chat completions from a server
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeVar

from annotated_types import Ge, Gt

from alttrain.llm import FailedTry, Failure, RequestPool, ServerSettings, is_other_model, json_of, printable_name
from alttrain.records import exclusive, read_json, write_json

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

HASH_DIGITS = 16  # of a reply's key that records store, enough to find its file in the cache
WHOLE = ("stop", "eos")  # finish reasons of a complete reply; "eos" is Together's
Item = TypeVar("Item")


@dataclass(frozen=True)
class Reply:
    """The unchanged text of a reply, and the model's name as the server reports it."""

    text: str
    served: str = ""


def reply_key(model: str, messages: list[dict[str, str]], sampling: Mapping[str, Any], recipe: int) -> str:
    """The SHA-256, 64 hex digits, of everything that shapes a reply."""
    shaping = {"model": model, "messages": messages, "sampling": dict(sampling), "recipe": recipe}
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ReplyCache:
    """Replies stored below `folder` and shared by all runs. Each is one file, ab/ab12...json, named by its key.

    A damaged file fails its checksum and costs one reply. Prompts are not stored.
    """

    folder: Path

    def get(self, key: str) -> Reply | None:
        """Return the reply of a key; None if there is none or its file is damaged, which is logged."""
        path = self._path(key)
        if not path.exists():
            return None
        with suppress(ValueError, KeyError):
            stored = read_json(path, dict[str, str])
            reply = Reply(stored["text"], stored["served"])
            if stored["checksum"] == self._checksum(key, reply):
                return reply
        log.warning("%s holds no reply; it is asked for again", path)
        return None

    def keep(self, key: str, reply: Reply, instead: Reply | None = None) -> Reply:
        """Store a reply and return the valid one: that of another run, if it was stored before and is not `instead`."""
        earlier = self.get(key)
        if earlier is not None and earlier != instead:
            return earlier
        write_json(self._path(key), asdict(reply) | {"checksum": self._checksum(key, reply)})
        return reply

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def _checksum(self, key: str, reply: Reply) -> str:
        return hashlib.sha256(json.dumps([key, reply.text, reply.served]).encode()).hexdigest()


Keep = Callable[[str, Reply], Reply]  # called with each key and reply on arrival; returns the reply that counts


class Writer(Protocol):
    """A model that answers prompts independently of each other.

    A reply's key has the model's `identity` and `sampling`: everything but the prompt that shapes a reply.
    With `repeats`, the model gives the same reply when asked again.
    """

    @property
    def identity(self) -> str: ...
    @property
    def sampling(self) -> Mapping[str, Any]: ...
    @property
    def repeats(self) -> bool: ...

    def write(self, prompts: Mapping[str, str], keep: Keep) -> Iterator[tuple[str, Reply | Failure]]:
        """Yield each key with its reply or failure, in order of arrival."""


@dataclass(frozen=True)
class ServerWriter(ServerSettings):
    """A writer that requests chat completions from a server with OpenAI's API. A `temperature` of None is not sent.

    A reply's key includes address, model and sampling, but not concurrency, retries or time-outs.
    """

    temperature: Annotated[float, Ge(0)] | None = 0.0
    max_tokens: Annotated[int, Gt(0)] = 256

    where: ClassVar[str] = "writer"
    repeats: ClassVar[bool] = False

    @property
    def sampling(self) -> Mapping[str, Any]:
        temperature = {} if self.temperature is None else {"temperature": self.temperature}
        return {**temperature, "max_tokens": self.max_tokens, **self.extra}

    @property
    def identity(self) -> str:
        """The model's name and the server's address, since servers may use one name for different models."""
        return f"{self.model_name} at {self.base_url.rstrip('/')}"

    def write(self, prompts: Mapping[str, str], keep: Keep) -> Iterator[tuple[str, Reply | Failure]]:
        greedy = self.sampling.get("temperature") == 0
        return RequestPool(self, prompts.items(), self._send, partial(_read, greedy), keep).results()

    async def _send(self, client: "AsyncOpenAI", prompt: str) -> Any:
        return await client.chat.completions.with_raw_response.create(
            model=self.model_name, messages=[{"role": "user", "content": prompt}], extra_body=dict(self.sampling)
        )


def replies(
    writer: Writer,
    asked: Iterable[tuple[str, Item]],
    folder: Path,
    recipe: int,
    who: str,
    useful: Callable[[Item, Reply], bool],
) -> Iterator[tuple[str, Item, str, Reply | Failure]]:
    """Yield (prompt, item, key, reply) for each (prompt, item): replies cached in `folder` first, then as they arrive.

    Equal prompts are asked once, and their items get the same reply. A lock makes runs that ask the same model take
    turns, so that each finds the replies of the one before. Warns if a model other than the requested one answered, or
    more than one. `recipe` is a version number in each key, `who` the prefix of log lines. A cached reply that is
    `useful` for none of its prompt's items is requested again and replaced, unless the writer would repeat it.
    """
    cache, model, sampling = ReplyCache(folder), writer.identity, writer.sampling
    items: dict[str, list[Item]] = {}
    for prompt, item in asked:
        items.setdefault(prompt, []).append(item)
    due: dict[str, str] = {}
    unusable: dict[str, Reply] = {}
    served: Counter[str] = Counter()

    def to_items(prompt: str, key: str, reply: Reply | Failure) -> Iterator[tuple[str, Item, str, Reply | Failure]]:
        served[reply.served if isinstance(reply, Reply) else ""] += 1
        return ((prompt, item, key, reply) for item in items[prompt])

    for prompt, prompt_items in items.items():
        key = reply_key(model, [{"role": "user", "content": prompt}], sampling, recipe)
        cached = cache.get(key)
        if cached and (writer.repeats or any(useful(item, cached) for item in prompt_items)):
            yield from to_items(prompt, key, cached)
        else:
            due[key] = prompt
            unusable |= {key: cached} if cached else {}
    if due:
        with exclusive(folder / f"{reply_key(model, [], sampling, recipe)[:HASH_DIGITS]}.asked"):
            for key, prompt in list(due.items()):
                cached = cache.get(key)
                if cached and cached != unusable.get(key):  # another run stored it meanwhile
                    del due[key]
                    yield from to_items(prompt, key, cached)
            if due:
                log.info("%-9s asking %s for %d replies; %d kept", who, model, len(due), len(items) - len(due))
                arriving = writer.write(due, lambda key, reply: cache.keep(key, reply, unusable.get(key)))
                for key, reply in arriving:
                    yield from to_items(due[key], key, reply)
    names = sorted(name for name in served if name)
    if len(names) > 1 or any(is_other_model(name, model.rpartition(" at ")[0]) for name in names):
        counts = ", ".join(f"{name} ({served[name]})" for name in names)
        log.warning("%-9s asked for %s, and the server says that these models answered: %s", who, model, counts)


def _read(greedy: bool, body: bytes) -> Reply | FailedTry:
    try:
        completion = json_of(body)
        choices, served = completion["choices"], completion.get("model")
        message, finish = choices[0]["message"], choices[0].get("finish_reason")
        content, extras = message["content"], [part for part in ("refusal", "tool_calls") if message.get(part)]
        f"{content}".encode()  # an unpaired surrogate cannot be encoded
    except (ValueError, LookupError, TypeError, AttributeError):
        return FailedTry("the server's answer is no chat completion", "outage")
    if completion.get("error"):
        return FailedTry("the server's answer tells an error", "outage")
    if finish == "content_filter" and not extras and len(choices) == 1:
        return FailedTry("the server's filter stopped the reply", "refused")
    faults = {
        f"the reply comes with {' and '.join(extras)}": bool(extras),
        f"the server gave {len(choices)} replies to one prompt": len(choices) != 1,
        "the reply was cut at writer.max_tokens": finish == "length",
        f"the server ended the reply with {printable_name(finish)!r}": finish not in WHOLE,
        "the reply is empty": not isinstance(content, str) or not content.strip(),
    }
    reason = next((reason for reason, applies in faults.items() if applies), "")
    if reason:
        return FailedTry(reason, "unusable", repeats=greedy and finish == "length")
    return Reply(content, printable_name(served))
