"""Causal attention over packed sequences, for all decoders that use transformers' attention interface.

A batch is one row of shape (1, tokens) without padding. The model is called without transformers' cache and with
`packed=PackedSequences(...)`, which says which tokens belong together:

- `PackedSequences(lengths)`                     scoring: sequences in a row
- `PackedSequences.training(lengths, device)`    the same, prepared for the CUDA kernel
- `PackedSequences(lengths, cache, first_slot)`  prefill: keys and values are also stored in cache slots. `begun` counts
                                                 a sequence's first tokens whose keys and values its slot already has;
                                                 the row has only the later ones.
- `PackedSequences.decoding(cache, positions, device)`  a decode step: the newest token of each of the first slots

Training on CUDA uses torch's variable-length FlashAttention. Everywhere else, sequences of similar length are padded to
a batch; padding follows the last token, so the causal mask hides it. Short sequences use plain matrix products, because
torch's CPU kernel is several times slower on them, mainly in the backward pass.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import create_masks_for_generate

from alttrain.backbone.memory import SHORT

try:
    from torch.nn.attention import varlen
except ImportError:  # before torch 2.10
    varlen = None  # type: ignore[assignment]

NAME = "alttrain_packed"
HAS_VARLEN = varlen is not None and "window_size" in inspect.signature(varlen.varlen_attn).parameters  # torch 2.11
MOST_PADDING = 0.25  # of the positions in a group of neighbouring sequences; a call per sequence would be slower
HALF = (torch.bfloat16, torch.float16)  # what the CUDA kernel takes
HARMLESS = frozenset({"scaling", "dropout", "sliding_window", "packed", "position_ids", "cache_position"})
"""Further arguments of transformers' attention: those computed with here, and those that change nothing."""
REACH = 2048  # up to this many tokens, compiled code gets the same upper bound of the lengths: it is compiled once
KeysValues = tuple[Tensor, Tensor]


@dataclass
class SlotCache:
    """Keys and values of the sequences being decoded, one sequence per slot.

    `layers` holds keys (slots, kv heads, head size, length), transposed for the decode step's matrix product, and
    values (slots, kv heads, length, head size). A layer is allocated on first use, when its shape is known.
    """

    slots: int
    length: int
    layers: dict[int, KeysValues] = field(default_factory=dict)

    def layer(self, index: int, like: Tensor) -> KeysValues:
        """Return a layer's keys and values. `like` is (1, kv heads, tokens, head size) and sets shape and dtype."""
        if index not in self.layers:
            heads, size = like.shape[1], like.shape[3]
            keys = like.new_zeros((self.slots, heads, size, self.length))
            self.layers[index] = keys, like.new_zeros((self.slots, heads, self.length, size))
        return self.layers[index]

    def fill(self, index: int, key: Tensor, value: Tensor, packed: "PackedSequences") -> None:
        """Store keys and values (1, kv heads, tokens, head size), one sequence per slot from `packed.first_slot`."""
        keys, values = self.layer(index, key)
        start = 0
        for slot, (begun, length) in enumerate(packed.spans, packed.first_slot):
            keys[slot, :, :, begun : begun + length] = key[0, :, start : start + length].transpose(-1, -2)
            values[slot, :, begun : begun + length] = value[0, :, start : start + length]
            start += length

    def copy(self, sources: Sequence[int], first: int, length: int) -> None:
        """Copy the first `length` positions of the slots `sources` to the slots from `first` on, all at once."""
        targets = slice(first, first + len(sources))
        for keys, values in self.layers.values():
            keys[targets, :, :, :length] = keys[sources, :, :, :length]
            values[targets, :, :length] = values[sources, :, :length]


@dataclass(frozen=True)
class LengthGroup:
    """Neighbouring sequences of similar length, attended to as one padded batch of `count` x `longest` positions."""

    count: int
    longest: int
    tokens: int  # without padding
    padded: Tensor  # the index of the token at each position; padding repeats a sequence's last token
    padding: Tensor  # the positions that are padding
    unpadded: Tensor  # the position of each token


@dataclass
class PackedSequences:
    """Which tokens of the row belong together. A decode step has no `lengths`, but `positions` and a `bias`."""

    lengths: Sequence[int]  # tokens of each sequence
    cache: SlotCache | None = None  # where keys and values are stored, one sequence per slot from `first_slot` on
    first_slot: int = 0
    begun: Sequence[int] = ()  # tokens that each slot has already, which precede those of the row; (): none
    boundaries: Tensor | None = None  # (sequences + 1,) int32: each start and the last end, for the CUDA kernel
    longest: int = 0  # an upper bound of the lengths
    positions: Tensor | None = None  # (slots,) of the newest tokens
    bias: Tensor | None = None  # (slots, 1, 1, longest), -inf for hidden tokens
    groups: list[LengthGroup] | None = None

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where each sequence's tokens begin in its slot, and how many they are."""
        return list(zip(self.begun or [0] * len(self.lengths), self.lengths, strict=True))

    @classmethod
    def decoding(cls, cache: SlotCache, positions: Sequence[int], device: torch.device) -> "PackedSequences":
        """Describe a decode step: one new token in each of the first `len(positions)` slots."""
        longest, newest = max(positions) + 1, torch.tensor(positions, device=device)
        hidden = torch.arange(longest, device=device)[None, :] > newest[:, None]
        bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)
        return cls([], cache, positions=newest, bias=bias[:, None, None, :], longest=longest)

    @classmethod
    def training(cls, lengths: Sequence[int], device: torch.device, at_most: int = 0) -> "PackedSequences":
        """Describe sequences to train on. `at_most` is their maximum number, so that code is compiled once."""
        packed = cls(lengths, longest=max(lengths))
        if device.type == "cuda" and HAS_VARLEN:
            starts = torch.tensor([0, *lengths, *[0] * (at_most - len(lengths))], dtype=torch.int32)
            packed.boundaries = starts.cumsum(0, dtype=torch.int32).to(device, non_blocking=True)
            packed.longest = min(sum(lengths), max(REACH, 1 << (packed.longest - 1).bit_length()))
        return packed


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    packed: PackedSequences,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence: query (1, heads, tokens, size) -> (1, tokens, heads, size).

    Raises ValueError for another kind of attention (`other_kind`) and, except in the CUDA kernel, for a sequence longer
    than the backbone's sliding window.
    """
    if kind := other_kind(module, others):
        raise ValueError(f"packed attention does not compute {kind}, which this backbone's layers have")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast, rotary embeddings return float32
    if packed.boundaries is not None and query.dtype in HALF and dropout == 0.0:
        return _attend_on_cuda(query, key, value, packed, scale, sliding_window), None
    length = packed.longest if packed.positions is not None else max(map(sum, packed.spans))
    if sliding_window is not None and length > sliding_window:
        raise ValueError(f"a sequence of {length} tokens passes this backbone's sliding window of {sliding_window}")
    if packed.positions is not None:
        return _attend_newest(module, query, key, value, packed, scale), None
    if packed.cache is not None:
        packed.cache.fill(module.layer_idx, key, value, packed)
    return _attend_in_groups(module, query, key, value, packed, scale, dropout), None


def other_kind(module: Any, others: Mapping[str, object]) -> str:
    """Return what a layer asks for beyond causal softmax attention, by its further arguments, or "".

    Examples are s_aux (attention sinks, gpt-oss), softcap (Gemma 2) and indices (DeepSeek's sparse attention).
    """
    names = (name for name, value in others.items() if value is not None and not isinstance(value, bool))
    unsupported = [name for name in names if name not in HARMLESS]
    if False in (others.get("is_causal"), getattr(module, "is_causal", None)):
        unsupported.append("is_causal=False")
    return ", ".join(unsupported)


def _attend_newest(
    module: Any, query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float
) -> Tensor:
    """One new token per slot: query (1, heads, slots, size) -> (1, slots, heads, size)."""
    assert packed.cache is not None
    assert packed.bias is not None
    keys, values = packed.cache.layer(module.layer_idx, key)
    active, size = query.shape[2], query.shape[3]
    slots = torch.arange(active, device=query.device)
    keys[slots, :, :, packed.positions] = key[0].transpose(0, 1)
    values[slots, :, packed.positions] = value[0].transpose(0, 1)
    grouped = query[0].transpose(0, 1).reshape(active, key.shape[1], -1, size)
    scores = (grouped @ keys[:active, :, :, : packed.longest]).float()
    probabilities = torch.add(packed.bias, scores, alpha=scale).softmax(-1).to(value.dtype)
    return (probabilities @ values[:active, :, : packed.longest]).reshape(1, active, -1, size)


def _attend_on_cuda(
    query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float, sliding_window: int | None
) -> Tensor:
    """FlashAttention over the whole row (torch.nn.attention.varlen), which needs as many key heads as query heads."""
    size, queries_per_key = query.shape[-1], query.shape[1] // key.shape[1]
    if abs(scale * size**0.5 - 1) > 1e-6:  # the kernel always scales by 1 / sqrt(size)
        query = query * (scale * size**0.5)
    if queries_per_key > 1:
        key, value = key.repeat_interleave(queries_per_key, 1), value.repeat_interleave(queries_per_key, 1)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)  # 0: no later tokens
    starts = packed.boundaries
    assert starts is not None
    output = varlen.varlen_attn(q, k, v, starts, starts, packed.longest, packed.longest, window_size=window)
    assert isinstance(output, Tensor)
    return output[None]


def group_lengths(lengths: Sequence[int], device: torch.device) -> list[LengthGroup]:
    """Group neighbouring sequences of similar length. Sorted lengths give the fewest groups."""
    batches: list[list[int]] = []
    for length in lengths:
        extended = [*batches[-1], length] if batches else [length]
        if batches and sum(extended) >= (1 - MOST_PADDING) * max(extended) * len(extended):
            batches[-1] = extended
        else:
            batches.append([length])
    groups = []
    for batch in batches:
        longest, starts, rows = max(batch), [0, *itertools.accumulate(batch)], list(enumerate(batch))
        padded = [starts[row] + min(offset, length - 1) for row, length in rows for offset in range(longest)]
        padding = [row * longest + offset for row, length in rows for offset in range(length, longest)]
        unpadded = [row * longest + offset for row, length in rows for offset in range(length)]
        indices = (torch.tensor(values, dtype=torch.long, device=device) for values in (padded, padding, unpadded))
        groups.append(LengthGroup(len(batch), longest, sum(batch), *indices))
    return groups


def _attend_in_groups(
    module: Any, query: Tensor, key: Tensor, value: Tensor, packed: PackedSequences, scale: float, dropout: float
) -> Tensor:
    """Sequences in padded groups: query (1, heads, tokens, size) -> (1, tokens, heads, size)."""
    if packed.groups is None:
        packed.groups = group_lengths(packed.lengths, query.device)
    sizes, spans, first = [group.tokens for group in packed.groups], packed.spans, 0
    parts = zip(*(torch.split(tensor[0].transpose(0, 1), sizes) for tensor in (query, key, value)), strict=True)
    outputs = []
    for group, tensors in zip(packed.groups, parts, strict=True):
        q, k, v = (_pad(tensor, group) for tensor in tensors)
        group_spans, hidden = spans[first : first + group.count], None
        if packed.cache is not None and any(begun for begun, _ in group_spans):
            k, v, hidden = _from_slots(packed.cache.layers[module.layer_idx], packed.first_slot + first, group_spans)
        out = _attend_padded(q, k, v, scale, dropout, hidden)
        flat = out.transpose(1, 2).reshape(-1, out.shape[1], out.shape[3])
        outputs.append(_Gather.apply(flat, group.unpadded, group.padded, group.padding))  # type: ignore[no-untyped-call]
        first += group.count
    return torch.cat(outputs)[None]


def _from_slots(layer: KeysValues, first_slot: int, spans: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values (count, kv heads, seen, size) of slots whose sequences continue in this row, and a mask.

    `spans` say where each slot's new tokens begin and how many they are. The mask (count or 1, longest, seen) marks the
    keys that a new token does not see.
    """
    slots, seen, longest = slice(first_slot, first_slot + len(spans)), max(map(sum, spans)), max(n for _, n in spans)
    keys, values = layer[0][slots, :, :, :seen].transpose(-1, -2), layer[1][slots, :, :seen]
    starts = [begun for begun, _ in spans]
    starts = starts[:1] if len(set(starts)) == 1 else starts  # one mask for all
    positions = torch.arange(seen, device=keys.device)
    hidden = positions > torch.tensor(starts, device=keys.device)[:, None, None] + positions[:longest, None]
    return keys, values, hidden


def _attend_padded(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float, hidden: Tensor | None) -> Tensor:
    """q (count, heads, length, size), k and v (count, kv heads, seen, size) -> the shape of q.

    `hidden` (count or 1, length, seen) marks the keys that a query does not see; None is the causal mask.
    """
    length, seen = q.shape[2], k.shape[2]
    if seen <= SHORT and dropout == 0.0:
        bias = torch.full((length, seen), -torch.inf, device=q.device).triu_(1)
        if hidden is not None:
            bias = torch.zeros(hidden.shape, device=q.device).masked_fill_(hidden, -torch.inf)[:, None, None]
        grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
        out: Tensor = _Attention.apply(grouped, k, v, bias, scale)  # type: ignore[no-untyped-call]
        return out.view(q.shape)
    mask = None if hidden is None else ~hidden[:, None]
    grouped_heads = q.shape[1] != k.shape[1]
    return functional.scaled_dot_product_attention(
        q, k, v, mask, dropout_p=dropout, is_causal=mask is None, scale=scale, enable_gqa=grouped_heads
    )


class _Attention(torch.autograd.Function):
    """softmax(q k' scale + bias) v by plain matrix products. The probabilities are kept for the gradient.

    q is (count, kv heads, queries per key head x length, size), k and v are (count, kv heads, seen, size). bias
    (length, seen), or (count or 1, 1, 1, length, seen), is -inf for hidden positions.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        scores = (q @ k.transpose(-1, -2)).float()
        by_query_head = scores.view(*scores.shape[:2], -1, *bias.shape[-2:])
        torch.add(bias, by_query_head, alpha=scale, out=by_query_head)
        probabilities = scores.softmax(-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, probabilities)
        ctx.scale = scale
        return probabilities @ v

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, probabilities = ctx.saved_tensors
        v_gradient = probabilities.transpose(-1, -2) @ gradient
        weights = probabilities.float()
        score_gradient = (gradient @ v.transpose(-1, -2)).float().mul_(weights)
        score_gradient.sub_(weights.mul_(score_gradient.sum(-1, keepdim=True))).mul_(ctx.scale)
        score_gradient = score_gradient.to(q.dtype)
        return score_gradient @ k, score_gradient.transpose(-1, -2) @ q, v_gradient, None, None


class _Gather(torch.autograd.Function):
    """Rows of a tensor by index. The gradient is a gather by `back`; rows in `drop` are padding and get no gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, back: Tensor, drop: Tensor) -> Tensor:
        ctx.save_for_backward(back, drop)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        back, drop = ctx.saved_tensors
        return gradient.index_select(0, back).index_fill_(0, drop, 0.0), None, None, None


def _pad(tokens: Tensor, group: LengthGroup) -> Tensor:
    """(tokens, heads, size) -> (count, heads, longest, size)."""
    padded: Tensor = _Gather.apply(tokens, group.padded, group.unpadded, group.padding[:0])  # type: ignore[no-untyped-call]
    return padded.view(group.count, group.longest, *tokens.shape[1:]).transpose(1, 2)


def row_masks(decoder: Any, lengths: Sequence[int]) -> Any:
    """Return what `attention_mask` is for a packed row: None for packed attention, else the masks of transformers.

    A model makes such masks itself, but gpt-oss's do not separate the sequences, and the others' take two for one where
    the second's position ids go on from the first's, as those of SafeKey's key sentences may.
    """
    if decoder.config._attn_implementation == NAME:
        return None
    weight = decoder.get_input_embeddings().weight
    positions = torch.cat([torch.arange(length, device=weight.device) for length in lengths])[None]
    row = torch.empty((*positions.shape, 0), dtype=weight.dtype, device=weight.device)
    return create_masks_for_generate(decoder.config, row, None, None, positions)


def register(name: str = NAME, attention: Callable[..., tuple[Tensor, None]] = packed_attention) -> None:
    """Register an attention, by default the packed one, with transformers, without transformers' attention masks."""
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, lambda *arguments, **options: None)
