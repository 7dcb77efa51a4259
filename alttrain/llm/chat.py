"""Replies to prompts: requested as OpenAI chat completions, and stored in a cache that all runs share."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NotRequired, Protocol, TypedDict
from uuid import uuid4

from annotated_types import Ge, Gt

from alttrain.llm.pool import FailedTry, Failure, RequestPool, ServerSettings, is_other_model, json_of, word
from alttrain.records import alone, read_json, write_json

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger(__name__)

HASH_DIGITS = 16  # of a reply's key that records store, enough to find its file in the cache
WHOLE = ("stop", "eos")  # finish reasons of a complete reply; "eos" is Together's


@dataclass(frozen=True)
class Reply:
    """The unchanged text of a reply, and the model's name as the server reports it."""

    text: str
    served: str = ""


class _Kept(TypedDict):
    """A reply's file in the cache. Older versions wrote no checksum."""

    text: str
    served: NotRequired[str]
    checksum: NotRequired[str]


def _checksum(key: str, reply: Reply) -> str:
    return hashlib.sha256(json.dumps([key, reply.text, reply.served]).encode()).hexdigest()


def reply_key(model: str, messages: list[dict[str, str]], sampling: Mapping[str, Any], recipe: int) -> str:
    """Return the SHA-256, 64 hex digits, of everything that shapes a reply."""
    asked = {"model": model, "messages": messages, "sampling": dict(sampling), "recipe": recipe}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ReplyCache:
    """Replies stored below `folder` and shared by all runs. Each is one file, ab/ab12...json, named by its key.

    Separate files need no lock between runs on several machines, since creating a link is atomic on shared file systems
    too. An interrupted write leaves no partial reply. A damaged file fails its checksum and costs one reply. Prompts
    are not stored.
    """

    folder: Path

    def get(self, key: str) -> Reply | None:
        """Return the reply of a key; None if there is none or its file is damaged, which is logged."""
        path = self._path(key)
        try:
            kept = read_json(path, _Kept)
            reply = Reply(kept["text"], kept.get("served", ""))
            if kept.get("checksum", _checksum(key, reply)) != _checksum(key, reply):
                raise ValueError
            return reply
        except FileNotFoundError:
            return None
        except ValueError:
            log.warning("%s holds no reply; it is asked for again", path)
            return None

    def keep(self, key: str, reply: Reply, instead: Reply | None = None) -> Reply:
        """Store a reply and return the valid one: if several runs asked at once, the first that was stored.

        `instead` is a stored reply that was not useful; it is replaced.
        """
        path = self._path(key)
        fresh = path.with_name(f".{key}.{uuid4().hex}")
        write_json(fresh, asdict(reply) | {"checksum": _checksum(key, reply)})
        try:
            os.link(fresh, path)  # unlike a rename, a link does not replace what another run stored
        except FileExistsError:
            if (earlier := self.get(key)) is not None and earlier != instead:
                return earlier
            os.replace(fresh, path)
        except OSError:  # the file system has no hard links: the last reply counts
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        return reply

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


Keep = Callable[[str, Reply], Reply]
"""Called with each key and reply on arrival; returns the reply that counts."""


class Writer(Protocol):
    """A model that answers prompts independently of each other."""

    @property
    def identity(self) -> str:
        """The model's identity; part of each reply's key."""

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Everything besides model and prompt that shapes a reply; part of each reply's key."""

    @property
    def repeats(self) -> bool:
        """Whether the model gives the same reply when asked again."""

    def write(self, prompts: Mapping[str, str], keep: Keep) -> Iterator[tuple[str, Reply | Failure]]:
        """Yield each key with its reply or failure, in order of arrival. Keys are missing if the model is given up."""


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
        """Fields of a request besides model and messages."""
        temperature = {} if self.temperature is None else {"temperature": self.temperature}
        return {**temperature, "max_tokens": self.max_tokens, **self.extra}

    @property
    def identity(self) -> str:
        """The model's name and the server's address, since servers may use one name for different models."""
        return f"{self.model_name} at {self.base_url.rstrip('/')}"

    def write(self, prompts: Mapping[str, str], keep: Keep) -> Iterator[tuple[str, Reply | Failure]]:
        """Yield each key with its reply or failure, in order of arrival. Keys are missing if the server is given up."""
        return RequestPool(self, prompts.items(), self._send, _read, keep).results()

    async def _send(self, client: "AsyncOpenAI", prompt: str) -> Any:
        return await client.chat.completions.with_raw_response.create(
            model=self.model_name, messages=[{"role": "user", "content": prompt}], extra_body=dict(self.sampling)
        )


def replies(
    writer: Writer,
    prompts: Sequence[str],
    folder: Path,
    recipe: int,
    who: str,
    useful: Callable[[str, Reply], bool],
) -> Iterator[tuple[str, str, Reply | Failure]]:
    """Yield (prompt, key, reply): cached replies first, then requested ones in order of arrival.

    A lock makes runs that ask the same model take turns, so that each finds the replies of the one before. Warns if a
    model other than the requested one answered, or more than one. `folder` is the cache's, `recipe` a version number in
    each key, and `who` the prefix of log lines. A cached reply that is not `useful` for its prompt is requested again
    and replaced, unless the writer would repeat it.
    """
    cache, model, sampling = ReplyCache(folder), writer.identity, writer.sampling
    asked: dict[str, str] = {}
    unusable: dict[str, Reply] = {}
    served: Counter[str] = Counter()
    for prompt in prompts:
        key = reply_key(model, [{"role": "user", "content": prompt}], sampling, recipe)
        kept = cache.get(key)
        if kept and (writer.repeats or useful(prompt, kept)):
            served[kept.served] += 1
            yield prompt, key, kept
        else:
            asked[key] = prompt
            unusable |= {key: kept} if kept else {}
    if asked:
        with alone(folder / f"{reply_key(model, [], sampling, recipe)[:HASH_DIGITS]}.asked"):
            for key in list(asked):
                kept = cache.get(key)
                if kept and kept != unusable.get(key):  # another run stored it meanwhile
                    yield asked.pop(key), key, kept
            if asked:
                log.info("%-9s asking %s for %d replies; %d kept", who, model, len(asked), len(prompts) - len(asked))
                written = writer.write(asked, lambda key, reply: cache.keep(key, reply, unusable.get(key)))
                for key, reply in written:
                    served[reply.served if isinstance(reply, Reply) else ""] += 1
                    yield asked[key], key, reply
    names = sorted(name for name in served if name)
    if len(names) > 1 or any(is_other_model(name, model.rpartition(" at ")[0]) for name in names):
        counts = ", ".join(f"{name} ({served[name]})" for name in names)
        log.warning("%-9s asked for %s, and the server says that these models answered: %s", who, model, counts)


def _read(body: bytes) -> Reply | FailedTry:
    """Parse the body of a chat completion. Several replies, or an unknown finish reason, count as a failed try."""
    try:
        completion = json_of(body)
        choices, served = completion["choices"], completion.get("model")
        message, finish = choices[0]["message"], choices[0].get("finish_reason")
        content, beside = message["content"], [part for part in ("refusal", "tool_calls") if message.get(part)]
        f"{content}".encode()  # an unpaired surrogate cannot be encoded
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return FailedTry("the server's answer is no chat completion", "outage")
    if completion.get("error"):
        return FailedTry("the server's answer tells an error", "outage")
    if finish == "content_filter" and not beside and len(choices) == 1:
        return FailedTry("the server's filter stopped the reply", "refused")
    faults = {
        f"the reply comes with {' and '.join(beside)}": bool(beside),
        f"the server gave {len(choices)} replies to one prompt": len(choices) != 1,
        "the reply was cut at writer.max_tokens": finish == "length",
        f"the server ended the reply with {word(finish)!r}": finish not in WHOLE,
        "the reply is empty": not isinstance(content, str) or not content.strip(),
    }
    reason = next((reason for reason, found in faults.items() if found), "")
    return FailedTry(reason, "unusable") if reason else Reply(content, word(served))
