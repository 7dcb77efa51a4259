"""Language models on servers with OpenAI's API, as teachers, judges and the server engine ask them.

- `ServerSettings`  where a server is and how it is asked; `check_server` says whether it can be
- `RequestPool`     many requests at a time, each with retries; an answer, or a `Failure` with the reason
- `ServerWriter`    a server's chat completions
- `ReplyCache`      every reply that came, shared by all runs; `replies` looks there before it asks a `Writer`
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
