"""Causal attention over the sequences of a packed row, for any device: neighbours of like length as one padded batch.

Padding stands after a sequence's last token, so causality hides it. Short sequences are attended to by plain products:
torch's own kernel for the CPU takes several times as long on them, most of it in the backward pass.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from alttrain.backbone.slots import KeysValues

SHORT = 256
"""Longest sequences that are attended to by plain products, whose memory grows with the square of the length."""

MOST_PADDING = 0.25
"""Share of padding up to which neighbours join one group: a call for each sequence would cost more."""


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


def attend_in_groups(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: Sequence[LengthGroup],
    scale: float,
    dropout: float,
    before: KeysValues | None,
) -> torch.Tensor:
    """query (1, heads, tokens, size) -> (1, tokens, heads, size). `before` stands in front of every sequence."""
    sizes = [group.tokens for group in groups]
    parts = zip(*(torch.split(tensor[0].transpose(0, 1), sizes) for tensor in (query, key, value)), strict=True)
    mixed = []
    for group, tensors in zip(groups, parts, strict=True):
        q, k, v = (_pad(tensor, group) for tensor in tensors)
        if before is not None:
            k, v = _behind(before[0], k), _behind(before[1], v)
        out = _group_attention(q, k, v, scale, dropout)
        flat = out.transpose(1, 2).reshape(-1, out.shape[1], out.shape[3])
        mixed.append(_gather(flat, group.unpadded, group.padded, group.padding))
    return torch.cat(mixed)[None]


def _behind(before: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """(heads, begun, size) in front of each of (count, heads, length, size)."""
    return torch.cat([before.expand(own.shape[0], -1, -1, -1), own], 2)


def _group_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, dropout: float) -> torch.Tensor:
    """q (count, heads, length, size), k and v (count, kv heads, at least length, size) -> as q."""
    length, seen = q.shape[2], k.shape[2]
    if seen <= SHORT and dropout == 0.0:
        bias = torch.full((length, seen), -torch.inf, device=q.device).triu_(1 + seen - length)
        grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
        out: torch.Tensor = _Attention.apply(grouped, k, v, bias, scale)  # type: ignore[no-untyped-call]
        return out.view(q.shape)
    mask = None
    if seen > length:
        mask = torch.ones((length, seen), dtype=torch.bool, device=q.device).tril_(seen - length)
    return functional.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


class _Attention(torch.autograd.Function):
    """softmax(q k' scale + bias) v by plain products, the probabilities kept for the gradient.

    q (count, kv heads, queries a key head x length, size), k and v (count, kv heads, seen, size), bias (length, seen):
    -inf where a position is not to be seen.
    """

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, scale: float
    ) -> torch.Tensor:
        scores = (q @ k.transpose(-1, -2)).float()
        each = scores.view(*scores.shape[:2], -1, *bias.shape)
        torch.add(bias, each, alpha=scale, out=each)
        probabilities = scores.softmax(-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, probabilities)
        ctx.scale = scale
        return probabilities @ v

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, probabilities = ctx.saved_tensors
        v_gradient = probabilities.transpose(-1, -2) @ gradient
        shares = probabilities.float()
        errors = (gradient @ v.transpose(-1, -2)).float().mul_(shares)
        errors.sub_(shares.mul_(errors.sum(-1, keepdim=True))).mul_(ctx.scale)
        errors = errors.to(q.dtype)
        return errors @ k, errors.transpose(-1, -2) @ q, v_gradient, None, None


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


def _pad(tokens: torch.Tensor, group: LengthGroup) -> torch.Tensor:
    """(tokens, heads, size) -> (count, heads, longest, size)."""
    padded = _gather(tokens, group.padded, group.unpadded, group.padding[:0])
    return padded.view(group.count, group.longest, *tokens.shape[1:]).transpose(1, 2)
