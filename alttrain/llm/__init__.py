"""Language models behind servers with OpenAI's API, used by teachers, judges and the server engine.

- `ServerSettings`  address and request settings of a server; its `check_server` tests that it can be used
- `RequestPool`     runs many requests concurrently with retries; gives an answer or a `Failure` for each
- `ServerWriter`    gets chat completions from a server
- `ReplyCache`      stores every reply for all runs; `replies` reads it before it asks a `Writer`
"""

from alttrain.llm.chat import HASH_DIGITS, Keep, Reply, ReplyCache, ServerWriter, Writer, replies, reply_key
from alttrain.llm.pool import (
    NEARLY_ALL,
    FailedTry,
    Failure,
    RequestPool,
    ServerSettings,
    is_other_model,
    json_of,
    scrub,
    word,
)

__all__ = [
    "HASH_DIGITS",
    "NEARLY_ALL",
    "FailedTry",
    "Failure",
    "Keep",
    "Reply",
    "ReplyCache",
    "RequestPool",
    "ServerSettings",
    "ServerWriter",
    "Writer",
    "is_other_model",
    "json_of",
    "replies",
    "reply_key",
    "scrub",
    "word",
]
