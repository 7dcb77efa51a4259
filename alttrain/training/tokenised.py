"""Tokenised examples, kept by content: many thousand long thoughts take minutes to tokenise, and runs share them.

FOLDER/ab12....npz holds the tokens of all examples one after another and how many are each one's prompt and response,
with a checksum beside it: a damaged file is made again. The key is the SHA-256 of the tokenizer, the
template and the examples.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from alttrain import __version__, tokenization
from alttrain.records import DamagedError, Example, from_cache, read_bytes, replacing, seal
from alttrain.tokenization import Renderer


def tokenised(renderer: Renderer, examples: Sequence[Example], folder: Path) -> list[tokenization.Sequence]:
    """The sequences that `renderer.render` gives, from the folder if they are there."""
    path = folder / f"{_key(renderer, examples)}.npz"
    if (kept := from_cache(path, lambda path: _read(path, examples))) is not None:
        return kept
    sequences = renderer.render(examples)
    tokens = np.array([token for sequence in sequences for token in sequence.ids], dtype=np.int32)
    lengths = np.array([(len(s.prompt), len(s.response)) for s in sequences], dtype=np.int64).reshape(-1, 2)
    with replacing(path) as file:
        np.savez(file, tokens=tokens, lengths=lengths)
    seal(path)
    return sequences


def _key(renderer: Renderer, examples: Sequence[Example]) -> str:
    backbone = renderer.backbone
    shaping = {
        "alttrain": __version__,
        "said": "text",
        "template": asdict(backbone.template),
        "system": backbone.system_prompt,
    }
    digest = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode())
    digest.update(renderer.tokenizer.backend_tokenizer.to_str().encode())
    for example in examples:
        digest.update(repr(example).encode())
    return digest.hexdigest()[:32]


def _read(path: Path, examples: Sequence[Example]) -> list[tokenization.Sequence]:
    with np.load(io.BytesIO(read_bytes(path))) as arrays:
        tokens, lengths = arrays["tokens"].tolist(), arrays["lengths"].tolist()
    if sum(map(sum, lengths)) != len(tokens):
        raise DamagedError(path, "has not the tokens that its lengths tell of")
    sequences, start = [], 0
    for example, (prompt, response) in zip(examples, lengths, strict=True):
        middle, end = start + prompt, start + prompt + response
        sequences.append(tokenization.Sequence(example.id, tokens[start:middle], tokens[middle:end]))
        start = end
    return sequences
