"""Sequences -> packed batches. A batch is the same `batch_size` examples a padded loader would give, in one row.

The order is a new permutation for each epoch, decided by seed and epoch alone, so that a resumed run sees the batches
that the interrupted one would have seen.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alttrain import tokenization


@dataclass(frozen=True)
class PackedBatch:
    """One optimizer step's examples in a row of shape (1, tokens).

    `keep` are the positions whose logits predict a response token, `targets` those tokens. `share` is what part of the
    optimizer step's response tokens these are, times the passes and devices whose gradients are averaged: the mean loss
    times `share`, averaged, is then the mean over the whole step, however it is divided.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: list[int]
    keep: torch.Tensor
    targets: torch.Tensor
    share: float = 1.0

    def to(self, device: Any) -> "PackedBatch":
        """The batch on a device; Lightning calls this."""
        moved = (tensor.to(device) for tensor in (self.ids, self.positions, self.keep, self.targets))
        ids, positions, keep, targets = moved
        return PackedBatch(ids, positions, self.lengths, keep, targets, self.share)


def pack(sequences: Sequence[tokenization.Sequence], multiple: int = 1, share: float = 1.0) -> PackedBatch:
    """Sequences joined into one row, longest first, which attention likes; position ids restart with each.

    The row is filled up to a `multiple` of tokens, for compiled code, by a last sequence that nothing is predicted in.
    """
    sequences = sorted(sequences, key=len, reverse=True)
    filling = -sum(map(len, sequences)) % multiple
    filled = [*sequences, tokenization.Sequence("", [0] * filling, [])] if filling else sequences
    keep: list[int] = []
    start = 0
    for sequence in sequences:
        first = start + len(sequence.prompt) - 1  # the position that predicts the first response token
        keep += range(first, first + len(sequence.response))
        start += len(sequence)
    return PackedBatch(
        ids=torch.tensor([[token for sequence in filled for token in sequence.ids]]),
        positions=torch.tensor([[position for sequence in filled for position in range(len(sequence))]]),
        lengths=[len(sequence) for sequence in filled],
        keep=torch.tensor(keep),
        targets=torch.tensor([token for sequence in sequences for token in sequence.response]),
        share=share,
    )


@dataclass(frozen=True)
class Division:
    """How the examples of an optimizer step are divided: among `devices`, of which this is `device`, and there into
    passes of at most `per_pass` examples.
    """

    devices: int = 1
    device: int = 0
    per_pass: int | None = None

    def passes(self, batch_size: int) -> int:
        """Passes a device makes for each step: as many on each, and in each step."""
        own = -(-batch_size // self.devices)
        return -(-own // (self.per_pass or own))


class BatchStream:
    """All batches of a training, epoch after epoch, from step `start` on. One pass is the whole training.

    Divided, it yields this device's passes of each step, one after another.
    """

    def __init__(
        self,
        sequences: Sequence[tokenization.Sequence],
        batch_size: int,
        epochs: int,
        seed: int,
        start: int = 0,
        multiple: int = 1,
        division: Division = Division(),
    ) -> None:
        self.sequences = sequences
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.start = start
        self.multiple = multiple
        self.division = division

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch; the last may be smaller."""
        return -(-len(self.sequences) // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.steps_per_epoch * self.epochs

    @property
    def passes(self) -> int:
        """Passes of each step on this device."""
        return self.division.passes(self.batch_size)

    def __len__(self) -> int:
        return self.steps * self.passes

    def __iter__(self) -> Iterator[PackedBatch]:
        for step in range(self.start, self.steps):
            yield from self._divided([self.sequences[index] for index in self.members(step)])

    def _divided(self, examples: list[tokenization.Sequence]) -> Iterator[PackedBatch]:
        """This device's passes over a step's examples. One that is left without any goes over the shortest, which then
        counts for nothing, since the devices wait for each other.
        """
        if self.passes == self.division.devices == 1:
            yield pack(examples, self.multiple)
            return
        whole = sum(len(example.response) for example in examples)
        parts = self.passes * self.division.devices
        ordered = sorted(examples, key=len, reverse=True)
        for number in range(self.passes):
            own = ordered[number * self.division.devices + self.division.device :: parts]
            share = sum(len(example.response) for example in own) / whole * parts
            yield pack(own or ordered[-1:], self.multiple, share)

    def members(self, step: int) -> list[int]:
        """Indices of the sequences in the batch of a step."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = list(range(len(self.sequences)))
        random.Random(f"epoch-{self.seed}-{epoch}").shuffle(order)
        return order[batch * self.batch_size : (batch + 1) * self.batch_size]
