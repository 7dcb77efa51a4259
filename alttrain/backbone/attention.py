"""Attention over packed rows and over slots, for every decoder that uses transformers' attention interface.

All tokens of a batch stand in one row of shape (1, tokens); no position is padding. The model is called without
transformers' cache. A `Rows` object, passed to the model's forward, says which tokens belong together:

- `Rows(lengths)`                training and scoring: sequences one after another
- `Rows(lengths, cache, slot)`   prefill: the same, their keys and values kept in a cache's slots
- `Rows.decoding(...)`           one newest token for each slot in use

On CUDA whole rows go through torch's variable-length FlashAttention; elsewhere, and behind a prefix, sequences of like
length are padded to one batch (`groups`).
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from alttrain.backbone.groups import LengthGroup, attend_in_groups, group_lengths
from alttrain.backbone.slots import Newest, Prefix, SlotCache, attend_newest

try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.10
    varlen = None  # type: ignore[assignment]

NAME = "alttrain_packed"
HAS_VARLEN = varlen is not None and "window_size" in inspect.signature(varlen.varlen_attn).parameters
"""Whether this torch has variable-length attention in the form that is called here (2.11 and newer)."""
HALF = (torch.bfloat16, torch.float16)
REACH = 2048
"""Tokens: up to here sequences are of one length to compiled code, which costs the kernel blocks that end at once."""


@dataclass
class Rows:
    """Which tokens of the packed row belong together.

    `lengths` are the tokens of each sequence, in order, `longest` an upper bound of them; `cumulated` (sequences + 1)
    int32, where each begins and the last ends, is for CUDA. With a `cache` the keys and values are kept, a sequence a
    slot from `first_slot` on; `prefix` stands in front of every sequence, `becomes` is filled as one. `newest` is the
    decode step: then there are no lengths.
    """

    lengths: Sequence[int]
    cache: SlotCache | None = None
    first_slot: int = 0
    prefix: Prefix | None = None
    becomes: Prefix | None = None
    cumulated: torch.Tensor | None = None
    longest: int = 0
    newest: Newest | None = None
    groups: list[LengthGroup] | None = None

    @classmethod
    def decoding(cls, cache: SlotCache, positions: torch.Tensor, longest: int) -> "Rows":
        """One new token for each of the first `len(positions)` slots; `longest` is above every position."""
        return cls([], newest=Newest.at(cache, positions, longest), longest=longest)

    @classmethod
    def packed(cls, lengths: Sequence[int], device: torch.device, at_most: int = 0) -> "Rows":
        """Sequences to train on or to score; `at_most` is the number of sequences compiled code is to expect."""
        rows = cls(lengths, longest=max(lengths))
        if device.type == "cuda" and HAS_VARLEN:
            empty = [0] * (at_most - len(lengths))  # so that every row has as many
            starts = torch.tensor([0, *lengths, *empty], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            rows.cumulated = starts.to(device, non_blocking=True)
            # an upper bound of few values, few compiled forms: with most data one for each length of row
            rows.longest = min(sum(lengths), max(REACH, 1 << (rows.longest - 1).bit_length()))
        return rows


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    rows: Rows | None = None,
    sliding_window: int | None = None,
    **unused: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sequence. query (1, heads, tokens, size) -> (1, tokens, heads, size)."""
    if rows is None:
        raise ValueError("packed attention needs the model to be called with rows=")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if rows.newest is not None:
        return _decode(module, query, key, value, rows, scale, sliding_window), None
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotated in float32 where autocast makes the products
    if rows.cumulated is not None and query.dtype in HALF and dropout == 0.0:
        return _variable_length(query, key, value, rows.cumulated, rows.longest, scale, sliding_window), None
    begun = rows.prefix.length if rows.prefix else 0
    _refuse_window(sliding_window, begun + max(rows.lengths))
    if rows.cache is not None:
        rows.cache.fill(module.layer_idx, key, value, list(rows.lengths), rows.first_slot, rows.prefix)
    if rows.becomes is not None:
        rows.becomes.layers[module.layer_idx] = (key[0], value[0])
    if rows.groups is None:
        rows.groups = group_lengths(rows.lengths, query.device)
    before = rows.prefix.layers[module.layer_idx] if rows.prefix else None
    return attend_in_groups(query, key, value, rows.groups, scale, dropout, before), None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _decode(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: Rows,
    scale: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """Left out of compiled code, which would be another for each layer and for each length."""
    assert rows.newest is not None
    _refuse_window(sliding_window, rows.longest)
    return attend_newest(query, key, value, rows.newest, module.layer_idx, scale)


def _refuse_window(sliding_window: int | None, length: int) -> None:
    if sliding_window is not None and length > sliding_window:
        raise ValueError(f"a sequence of {length} tokens passes this backbone's sliding window of {sliding_window}")


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cumulated: torch.Tensor,
    longest: int,
    scale: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """FlashAttention over the whole row (torch.nn.attention.varlen), which wants as many key heads as query heads."""
    size, shared = query.shape[-1], query.shape[1] // key.shape[1]
    if abs(scale * size**0.5 - 1) > 1e-6:  # the kernel's own scale is the usual one
        query = query * (scale * size**0.5)
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)  # and nothing after itself
    mixed = varlen.varlen_attn(q, k, v, cumulated, cumulated, longest, longest, window_size=window)
    assert isinstance(mixed, torch.Tensor)
    return mixed[None]


def _no_mask(*arguments: object, **options: object) -> None:
    """Packed attention makes its own masks."""


def register() -> None:
    """Make packed attention known to transformers under `NAME`."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
