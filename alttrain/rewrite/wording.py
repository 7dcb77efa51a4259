"""Choose one of several wordings by hashing a key: the same example and seed always get the same wording."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Wording = TypeVar("Wording")


def choose(wordings: Sequence[Wording], *key: object) -> Wording:
    """One of `wordings`, decided by `key` alone."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return wordings[int.from_bytes(digest[:8], "big") % len(wordings)]
