"""Attention over packed rows and over a slot cache, for every decoder that uses transformers' attention interface.

All tokens of a batch stand in one row of shape (1, tokens); no position is padding. The model is called without
transformers' cache. A `Rows` object, passed to the model's forward, says which tokens belong together and, when
generating, owns the keys and values of earlier tokens.
"""

from dataclasses import dataclass, field

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

    @classmethod
    def decoding(cls, cache: SlotCache, positions: torch.Tensor, longest: int) -> "Rows":
        """One new token for each of the first `len(positions)` slots; `longest` is the largest position plus one."""
        seen = torch.arange(longest, device=positions.device)[None, :] <= positions[:, None]
        return cls([], cache, positions=positions, longest=longest, mask=seen[:, None, None, :])


def packed_attention(
    module: torch.nn.Module,
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
    """Per sequence, so that no mask over all pairs is ever made."""
    grouped = query.shape[1] != key.shape[1]
    parts = zip(*(tensor.split(rows.lengths, dim=2) for tensor in (query, key, value)), strict=True)
    mixed = [
        functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped)
        for q, k, v in parts
    ]
    return torch.cat(mixed, dim=2).transpose(1, 2)


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
