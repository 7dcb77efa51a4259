"""Rows of a data set on the Hugging Face hub, through the `datasets` library and its cache; none of its code is run.

The revision a set was read at is recorded as the commit hash of its files, so that "the hub's current one" can be
named afterwards.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

_COMMIT = re.compile(r"@([0-9a-f]{40})/")


@dataclass(frozen=True)
class HubRows:
    """The rows of one split, and the commit they are of (empty where the library does not tell)."""

    rows: Iterable[dict[str, Any]]
    commit: str

    def content_hash(self) -> str:
        """What decides the rows' content: the commit, or else the first 16 hex digits of the rows' own SHA-256."""
        if self.commit:
            return self.commit
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:16]


def load(hub: str, config: str | None, split: str, revision: str | None, remedy: str) -> HubRows:
    """A split of a data set on the hub. Raises FileNotFoundError with one line, ending in `remedy`, where it cannot."""
    import datasets

    try:
        loaded = datasets.load_dataset(hub, config, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # OSError: no network, gated, no such set
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(f"{hub}: cannot be read from the hub: {told}; {remedy}") from error
    found = _COMMIT.search(" ".join(map(str, loaded.info.download_checksums or ())))
    return HubRows(cast(Iterable[dict[str, Any]], loaded), found[1] if found else "")
