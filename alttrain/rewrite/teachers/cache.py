"""Replies of models, kept by content and shared by all runs: CACHE/ab/ab12...json, one reply a file.

The key is the SHA-256 of everything that shapes a reply: model and server, messages, sampling, recipe version. One file
a reply rather than a database: a link or rename is atomic on shared file systems too, so runs on several machines need
no lock, a kill can tear nothing, and one spoiled file costs one reply: it has a checksum of the key and the reply.
Prompts are not stored, only their hash.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict
from uuid import uuid4

from alttrain.records import read_json, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """What a model wrote, unchanged, and the name under which the server says it wrote it."""

    text: str
    served: str = ""


class _Kept(TypedDict):
    """A reply's file. An older version wrote no checksum."""

    text: str
    served: NotRequired[str]
    checksum: NotRequired[str]


def _checksum(key: str, reply: Reply) -> str:
    return hashlib.sha256(json.dumps([key, reply.text, reply.served]).encode()).hexdigest()


def reply_key(model: str, messages: list[dict[str, str]], sampling: Mapping[str, Any], recipe: int) -> str:
    """64 hex digits that name one question to one model."""
    asked = {"model": model, "messages": messages, "sampling": dict(sampling), "recipe": recipe}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ReplyCache:
    """Replies below one folder."""

    folder: Path

    def get(self, key: str) -> Reply | None:
        """The reply kept under a key. A file that does not hold one is named in the log and asked for again."""
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
        """Store a reply and return the one that counts: where several runs asked at once, the first to arrive.

        One that was of no use is replaced: `instead` of it the new one counts.
        """
        path = self._path(key)
        fresh = path.with_name(f".{key}.{uuid4().hex}")
        write_json(fresh, asdict(reply) | {"checksum": _checksum(key, reply)})
        try:
            os.link(fresh, path)  # unlike a rename it never replaces what another run has stored meanwhile
        except FileExistsError:
            if (earlier := self.get(key)) is not None and earlier != instead:
                return earlier
            os.replace(fresh, path)
        except OSError:  # a file system without hard links: the last to arrive counts
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        return reply

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
