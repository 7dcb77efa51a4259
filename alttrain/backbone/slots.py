"""Keys and values of sequences that are being written, and attention of their newest tokens.

A slot holds one sequence. Slots are laid out side by side, so that a decode step is two batched products over the slots
in use; keys stand transposed, as the first of these wants them.
"""

from dataclasses import dataclass, field

import torch

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Prefix:
    """What all sequences begin with, such as a system prompt: per layer keys and values (kv heads, length, head size).

    It is computed once, and stands in front of every sequence that is prefilled with it.
    """

    length: int
    layers: dict[int, KeysValues] = field(default_factory=dict)


@dataclass
class SlotCache:
    """Keys (slots, kv heads, head size, length) and values (slots, kv heads, length, head size) of each layer.

    `layers` fills on the first forward, when the shapes are known.
    """

    slots: int
    length: int
    layers: dict[int, KeysValues] = field(default_factory=dict)

    def layer(self, index: int, like: torch.Tensor) -> KeysValues:
        """The key and value tensors of a layer; `like` is (1, kv heads, tokens, head size)."""
        if index not in self.layers:
            self.layers[index] = self._made(like, like.shape[1], like.shape[3])
        return self.layers[index]

    def _made(self, like: torch.Tensor, heads: int, size: int) -> KeysValues:
        keys = like.new_zeros((self.slots, heads, size, self.length))
        values = like.new_zeros((self.slots, heads, self.length, size))
        return keys, values

    def fill(
        self, index: int, key: torch.Tensor, value: torch.Tensor, lengths: list[int], first: int, prefix: Prefix | None
    ) -> None:
        """Store a packed row's keys and values (1, kv heads, tokens, head size), a sequence a slot from `first` on."""
        keys, values = self.layer(index, key)
        start, begun = 0, prefix.length if prefix else 0
        last = first + len(lengths)
        if prefix:
            before_keys, before_values = prefix.layers[index]
            keys[first:last, :, :, :begun] = before_keys.transpose(-1, -2)
            values[first:last, :, :begun] = before_values
        for slot, length in enumerate(lengths, first):
            part = slice(start, start + length)
            keys[slot, :, :, begun : begun + length] = key[0, :, part].transpose(-1, -2)
            values[slot, :, begun : begun + length] = value[0, :, part]
            start += length

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot over another's."""
        for keys, values in self.layers.values():
            keys[target, :, :, :length] = keys[source, :, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def resize(self, slots: int, length: int) -> None:
        """Make room for other numbers of slots and positions, layer by layer; what fits in both is kept."""
        kept = slice(0, min(slots, self.slots)), slice(0, min(length, self.length))
        self.slots, self.length = slots, length
        for index in list(self.layers):
            keys, values = self.layers.pop(index)
            fresh_keys, fresh_values = self._made(keys, keys.shape[1], keys.shape[2])
            fresh_keys[kept[0], :, :, kept[1]] = keys[kept[0], :, :, kept[1]]
            fresh_values[kept[0], :, kept[1]] = values[kept[0], :, kept[1]]
            self.layers[index] = fresh_keys, fresh_values


@dataclass
class Newest:
    """The newest token of each of the first slots: token i stands at `positions[i]` of slot i.

    `bias` (slots, 1, 1, longest) is 0 where a token may look and -inf elsewhere.
    """

    cache: SlotCache
    positions: torch.Tensor
    longest: int
    bias: torch.Tensor

    @classmethod
    def at(cls, cache: SlotCache, positions: torch.Tensor, longest: int) -> "Newest":
        """`longest` is at least the largest position plus one."""
        unseen = torch.arange(longest, device=positions.device)[None, :] > positions[:, None]
        bias = torch.zeros(unseen.shape, device=positions.device).masked_fill_(unseen, -torch.inf)
        return cls(cache, positions, longest, bias[:, None, None, :])


def attend_newest(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, newest: Newest, layer: int, scale: float
) -> torch.Tensor:
    """One new token a slot: query (1, heads, slots, size) -> (1, slots, heads, size).

    The query heads of a key head are its queries, so keys are never repeated.
    """
    keys, values = newest.cache.layer(layer, key)
    active, size = query.shape[2], query.shape[3]
    slots = torch.arange(active, device=query.device)
    keys[slots, :, :, newest.positions] = key[0].transpose(0, 1)
    values[slots, :, newest.positions] = value[0].transpose(0, 1)
    grouped = query[0].transpose(0, 1).reshape(active, key.shape[1], -1, size)
    scores = (grouped @ keys[:active, :, :, : newest.longest]).float()
    shares = torch.add(newest.bias, scores, alpha=scale).softmax(-1).to(value.dtype)
    mixed = shares @ values[:active, :, : newest.longest]
    return mixed.reshape(1, active, -1, size)
