"""Replies of models, kept by content and shared by all runs: CACHE/ab/ab12...json, one reply a file.

The key is the SHA-256 of everything that shapes a reply: model and server, messages, sampling, recipe version. One file
a reply rather than a database: a link or rename is atomic on shared file systems too, so runs on several machines need
no lock, a kill can tear nothing, and one spoiled file costs one reply. Prompts are not stored, only their hash.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from alttrain.records import decode, read_bytes, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """What a model wrote, unchanged, and the name under which the server says it wrote it."""

    text: str
    served: str = ""


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
            return decode(read_bytes(path), Reply, str(path))
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
        write_json(fresh, asdict(reply))
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
