"""Attention over packed rows and over a slot cache, for every decoder that uses transformers' attention interface.

All tokens of a batch stand in one row of shape (1, tokens); no position is padding. The model is called without
transformers' cache. A `Rows` object, passed to the model's forward, says which tokens belong together and, when
generating, owns the keys and values of earlier tokens.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "alttrain_packed"


@dataclass
class SlotCache:
    """Keys and values of up to `slots` sequences, allocated once: per layer (slots, kv heads, length, head size).

    `layers` fills on the first forward, when the shapes are known.
    """

    slots: int
    length: int
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def layer(self, index: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The key and value tensors of a layer; `like` is (1, kv heads, tokens, head size)."""
        if index not in self.layers:
            shape = (self.slots, like.shape[1], self.length, like.shape[3])
            self.layers[index] = (like.new_zeros(shape), like.new_zeros(shape))
        return self.layers[index]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot over another's."""
        for keys, values in self.layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]


class _Gather(torch.autograd.Function):
    """Rows of a tensor by index. The gradient is a gather too, by `back`; rows in `drop` are padding and get none."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, index: torch.Tensor, back: torch.Tensor, drop: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(back, drop)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        back, drop = ctx.saved_tensors
        return gradient.index_select(0, back).index_fill_(0, drop, 0.0), None, None, None


def _gather(rows: torch.Tensor, index: torch.Tensor, back: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
    gathered: torch.Tensor = _Gather.apply(rows, index, back, drop)  # type: ignore[no-untyped-call]
    return gathered


@dataclass(frozen=True)
class LengthGroup:
    """Neighbouring sequences of like length, attended to as one padded batch of `count` x `longest` positions.

    `tokens` is their number of tokens. `padded` is the token at each position, the sequence's last one repeated as
    padding; `padding` are those positions, `unpadded` the position of each token.
    """

    count: int
    longest: int
    tokens: int
    padded: torch.Tensor
    padding: torch.Tensor
    unpadded: torch.Tensor


MOST_PADDING = 0.25
"""Share of padding up to which neighbours join one group: a call for each sequence would cost more."""


def group_lengths(lengths: Sequence[int], device: torch.device) -> list[LengthGroup]:
    """The sequences of a packed row as groups of like length. Rows sorted by length give the fewest groups."""
    batches: list[list[int]] = []
    for length in lengths:
        joined = [*batches[-1], length] if batches else [length]
        if batches and sum(joined) >= (1 - MOST_PADDING) * max(joined) * len(joined):
            batches[-1] = joined
        else:
            batches.append([length])
    return [_group(batch, device) for batch in batches]


def _group(lengths: list[int], device: torch.device) -> LengthGroup:
    longest = max(lengths)
    starts = [0, *itertools.accumulate(lengths)]
    rows = list(enumerate(lengths))
    padded = [starts[row] + min(offset, length - 1) for row, length in rows for offset in range(longest)]
    padding = [row * longest + offset for row, length in rows for offset in range(length, longest)]
    unpadded = [row * longest + offset for row, length in rows for offset in range(length)]
    indices = (torch.tensor(values, dtype=torch.long, device=device) for values in (padded, padding, unpadded))
    return LengthGroup(len(lengths), longest, sum(lengths), *indices)


@dataclass
class Rows:
    """Which tokens of the packed row belong together.

    Without a cache, or when filling it: `lengths` are the tokens of each sequence, in order, and `first_slot` is the
    slot of the first. Decoding (`lengths` empty): token i is the newest of slot i and stands at `positions[i]`.
    """

    lengths: list[int]
    cache: SlotCache | None = None
    first_slot: int = 0
    positions: torch.Tensor | None = None
    longest: int = 0
    mask: torch.Tensor | None = None
    groups: list[LengthGroup] | None = None

    @classmethod
    def decoding(cls, cache: SlotCache, positions: torch.Tensor, longest: int) -> "Rows":
        """One new token for each of the first `len(positions)` slots; `longest` is the largest position plus one."""
        seen = torch.arange(longest, device=positions.device)[None, :] <= positions[:, None]
        return cls([], cache, positions=positions, longest=longest, mask=seen[:, None, None, :])


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
    if rows.lengths:
        _refuse_window(sliding_window, max(rows.lengths))
        if rows.cache is not None:
            _fill(rows, rows.cache, module.layer_idx, key, value)
        return _packed(query, key, value, rows, scaling, dropout), None
    assert rows.cache is not None
    _refuse_window(sliding_window, rows.longest)
    return _decode(query, key, value, rows, rows.cache, module.layer_idx, scaling), None


def _refuse_window(sliding_window: int | None, length: int) -> None:
    if sliding_window is not None and length > sliding_window:
        raise ValueError(f"a sequence of {length} tokens passes this backbone's sliding window of {sliding_window}")


def _packed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: Rows, scaling: float | None, dropout: float
) -> torch.Tensor:
    """One padded call for each group of like lengths. Padding stands after the real tokens, so causality hides it."""
    if rows.groups is None:
        rows.groups = group_lengths(rows.lengths, query.device)
    sizes = [group.tokens for group in rows.groups]
    parts = zip(*(torch.split(tensor[0].transpose(0, 1), sizes) for tensor in (query, key, value)), strict=True)
    mixed = []
    for group, tensors in zip(rows.groups, parts, strict=True):
        q, k, v = (_pad(tensor, group) for tensor in tensors)
        out = functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        flat = out.transpose(1, 2).reshape(-1, out.shape[1], out.shape[3])
        mixed.append(_gather(flat, group.unpadded, group.padded, group.padding))
    return torch.cat(mixed)[None]


def _pad(tokens: torch.Tensor, group: LengthGroup) -> torch.Tensor:
    """(tokens, heads, size) -> (count, heads, longest, size)."""
    padded = _gather(tokens, group.padded, group.unpadded, group.padding[:0])
    return padded.view(group.count, group.longest, *tokens.shape[1:]).transpose(1, 2)


def _fill(rows: Rows, cache: SlotCache, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
    keys, values = cache.layer(layer, key)
    start = 0
    for slot, length in enumerate(rows.lengths, rows.first_slot):
        keys[slot, :, :length] = key[0, :, start : start + length]
        values[slot, :, :length] = value[0, :, start : start + length]
        start += length


def _decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: Rows,
    cache: SlotCache,
    layer: int,
    scaling: float | None,
) -> torch.Tensor:
    """One new token a slot. The query heads of a key head are its queries, so keys are never repeated."""
    keys, values = cache.layer(layer, key)
    active = query.shape[2]
    slots = torch.arange(active, device=query.device)
    keys[slots, :, rows.positions] = key[0].transpose(0, 1)
    values[slots, :, rows.positions] = value[0].transpose(0, 1)
    kv_heads, size = key.shape[1], key.shape[3]
    grouped = query[0].transpose(0, 1).reshape(active, kv_heads, -1, size)
    mixed = functional.scaled_dot_product_attention(
        grouped,
        keys[:active, :, : rows.longest],
        values[:active, :, : rows.longest],
        attn_mask=rows.mask,
        scale=scaling,
    )
    return mixed.reshape(1, active, -1, size)


def _no_mask(*arguments: object, **options: object) -> None:
    """Packed attention makes its own masks."""


def register() -> None:
    """Make packed attention known to transformers under `NAME`."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
