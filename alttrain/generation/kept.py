"""What an untrained backbone wrote, kept by content: the No-train runs of a sweep generate once.

One file of JSON for each call, FOLDER/ab/ab12....json, holds the tokens of all its prompts: which prompts are decoded
together can change a bfloat16 result, so a call is taken whole or made anew. The key is the SHA-256 of everything that
shapes them. Files appear whole, with a checksum beside them; a damaged one is
made again. Jobs that want the same one at once wait for the first to write it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from alttrain import __version__
from alttrain.generation.config import Decoding
from alttrain.records import DamagedError, alone, from_cache, read_json, seal, write_text


class KeptDecoder:
    """Decodes as the decoder that `load` gives, which is loaded only for what is not kept yet.

    `identity` says which model that is, and all of how it decodes but the `Decoding`.
    """

    def __init__(self, load: Callable[[], Any], identity: Mapping[str, Any], folder: Path) -> None:
        self._load = load
        self.identity = identity
        self.folder = folder

    @cached_property
    def decoder(self) -> Any:
        """The decoder itself."""
        return self._load()

    def generate(
        self,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        names: Sequence[str] = (),
        on_finished: Callable[[int], None] | None = None,
        caps: Sequence[int] = (),
    ) -> list[list[int]]:
        """The tokens written for each prompt; see `Decoder.generate`."""
        chosen = {key: value for key, value in asdict(decoding).items() if value is not None}
        asked = {"alttrain": __version__, **self.identity, "decoding": chosen, "prompts": list(prompts)}
        if decoding.temperature:
            asked["names"] = list(names)
        if caps:
            asked["caps"] = list(caps)
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        path = self.folder / key[:2] / f"{key}.json"
        with alone(path):
            kept: list[list[int]] | None = from_cache(path, lambda path: _read(path, len(prompts)))
            if kept is not None:
                if on_finished:
                    on_finished(len(prompts))
                return kept
            written: list[list[int]] = self.decoder.generate(prompts, decoding, names, on_finished, caps)
            write_text(path, json.dumps(written))
            seal(path)
            return written


def _read(path: Path, prompts: int) -> list[list[int]]:
    written: list[list[int]] = read_json(path, list[list[Annotated[int, Meta(ge=0, lt=2**31)]]])
    if len(written) != prompts:
        raise DamagedError(path, f"has the tokens of {len(written)} prompts, not of {prompts}")
    return written
