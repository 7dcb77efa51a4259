"""Sequences -> packed batches. A batch is the same `batch_size` examples a padded loader would give, in one row.

The order is a new permutation for each epoch, decided by seed and epoch alone, so that a resumed run sees the batches
that the interrupted one would have seen.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from alttrain import tokenization
from alttrain.training.config import Mean, SafeKeyLoss, SupervisedFineTuning


@dataclass(frozen=True)
class PackedBatch:
    """One optimizer step's examples in a row of shape (1, tokens).

    `keep` are the positions whose logits predict a response token, `targets` those tokens, `relative` how much each
    counts beside the mean one; None where all count the same. `share` is what part of the optimizer step's loss this
    is, times the passes and devices whose gradients are averaged: the mean loss times `share`, averaged, is then the
    mean over the whole step, however it is divided. `marked` is for SafeKey's losses.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: list[int]
    keep: torch.Tensor
    targets: torch.Tensor
    share: float = 1.0
    relative: torch.Tensor | None = None
    marked: "MarkedBatch | None" = None

    def to(self, device: Any) -> "PackedBatch":
        """The batch on a device; Lightning calls this."""
        ids, positions, keep, targets = (x.to(device) for x in (self.ids, self.positions, self.keep, self.targets))
        relative = None if self.relative is None else self.relative.to(device)
        marked = None if self.marked is None else self.marked.to(device)
        return PackedBatch(ids, positions, self.lengths, keep, targets, self.share, relative, marked)


@dataclass(frozen=True)
class MarkedBatch:
    """What SafeKey's losses look at. `key` are the understandings and key sentences alone, and no request before them.

    `spans` are, of each example with marks, the positions in the whole row where it begins, where its response does,
    and where its understanding ends; `harmful` (spans,) is 1 or 0, `share` the marked examples' share of all. Where
    none is marked the first stands in and counts for nothing: devices that shard weights make the same passes.
    """

    key: PackedBatch
    spans: list[tuple[int, int, int]]
    harmful: torch.Tensor
    share: float

    def to(self, device: Any) -> "MarkedBatch":
        """The batch on a device."""
        return replace(self, key=self.key.to(device), harmful=self.harmful.to(device))


class _Part(NamedTuple):
    """One sequence of a row: its tokens, the position of its first, and the first that is predicted."""

    ids: list[int]
    position: int
    trained: int


def pack(
    sequences: Sequence[tokenization.Sequence],
    multiple: int = 1,
    share: float = 1.0,
    mean_over: Mean = "tokens",
    marks: bool = False,
) -> PackedBatch:
    """Sequences joined into one row, longest first, which attention likes; position ids restart with each.

    The row is filled up to a `multiple` of tokens, for compiled code, by a last sequence that nothing is predicted in.
    With `marks` it brings what SafeKey's losses look at.
    """
    sequences = sorted(sequences, key=len, reverse=True)
    batch = _joined([_Part(s.ids, 0, len(s.prompt)) for s in sequences], multiple, mean_over)
    return replace(batch, share=share, marked=_marked(sequences, multiple) if marks else None)


def _joined(parts: Sequence[_Part], multiple: int, mean_over: Mean) -> PackedBatch:
    filling = -sum(len(part.ids) for part in parts) % multiple
    filled = [*parts, _Part([0] * filling, 0, filling)] if filling else parts
    keep: list[int] = []
    counts: list[int] = []
    start = 0
    for part in parts:
        first = start + part.trained - 1  # the position that predicts the first of them
        counts.append(len(part.ids) - part.trained)
        keep += range(first, first + counts[-1])
        start += len(part.ids)
    even = None
    if mean_over == "examples":
        even = torch.tensor([len(keep) / len(parts) / count for count in counts for _ in range(count)])
    return PackedBatch(
        ids=torch.tensor([[token for part in filled for token in part.ids]]),
        positions=torch.tensor([[part.position + offset for part in filled for offset in range(len(part.ids))]]),
        lengths=[len(part.ids) for part in filled],
        keep=torch.tensor(keep),
        targets=torch.tensor([token for part in parts for token in part.ids[part.trained :]]),
        relative=even,
    )


def _marked(sequences: Sequence[tokenization.Sequence], multiple: int) -> MarkedBatch:
    marked = [sequence.marks for sequence in sequences]
    share = sum(marks is not None for marks in marked) / len(marked)
    if not share:
        marked[0] = tokenization.Marks(1, 2, False)
    spans, parts, harmful, start = [], [], [], 0
    for sequence, marks in zip(sequences, marked, strict=True):
        if marks is not None:
            middle = start + len(sequence.prompt)
            spans.append((start, middle, middle + marks.understood))
            harmful.append(float(marks.harmful))
            parts.append(_Part(sequence.response[: marks.key], len(sequence.prompt), marks.understood))
        start += len(sequence)
    key = _joined(sorted(parts, key=lambda part: -len(part.ids)), multiple, "examples")
    return MarkedBatch(key, spans, torch.tensor(harmful), share)


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
        recipe: SupervisedFineTuning,
        seed: int,
        start: int = 0,
        multiple: int = 1,
        division: Division = Division(),
    ) -> None:
        self.sequences = sequences
        self.recipe = recipe
        self.seed = seed
        self.start = start
        self.multiple = multiple
        self.division = division
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch; the last may be smaller."""
        return self.recipe.steps_per_epoch(len(self.sequences))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.recipe.steps(len(self.sequences))

    @property
    def passes(self) -> int:
        """Passes of each step on this device."""
        return self.division.passes(self.recipe.batch_size)

    @property
    def tokens(self) -> int:
        """Tokens of all steps."""
        epochs, rest = divmod(self.steps, self.steps_per_epoch)
        begun = [index for step in range(self.steps - rest, self.steps) for index in self.members(step)]
        return epochs * sum(map(len, self.sequences)) + sum(len(self.sequences[index]) for index in begun)

    def __len__(self) -> int:
        return self.steps * self.passes

    def __iter__(self) -> Iterator[PackedBatch]:
        objective = self.recipe.objective
        marked_from = self.steps
        if isinstance(objective, SafeKeyLoss):
            marked_from -= objective.last_epochs * self.steps_per_epoch
        for step in range(self.start, self.steps):
            yield from self._divided([self.sequences[index] for index in self.members(step)], step >= marked_from)

    def _divided(self, examples: list[tokenization.Sequence], marks: bool) -> Iterator[PackedBatch]:
        """This device's passes over a step's examples. One that is left without any goes over the shortest, which then
        counts for nothing, since the devices wait for each other.
        """
        mean_over = self.recipe.objective.mean_over
        if self.passes == self.division.devices == 1:
            yield pack(examples, self.multiple, 1.0, mean_over, marks)
            return

        def weight(part: Sequence[tokenization.Sequence]) -> int:
            return len(part) if mean_over == "examples" else sum(len(example.response) for example in part)

        parts = self.passes * self.division.devices
        ordered = sorted(examples, key=len, reverse=True)
        for number in range(self.passes):
            own = ordered[number * self.division.devices + self.division.device :: parts]
            share = weight(own) / weight(examples) * parts
            yield pack(own or ordered[-1:], self.multiple, share, mean_over, marks)

    def members(self, step: int) -> list[int]:
        """Indices of the sequences in the batch of a step."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = list(range(len(self.sequences)))
            random.Random(f"epoch-{self.seed}-{epoch}").shuffle(order)
            self._order = epoch, order
        size = self.recipe.batch_size
        return self._order[1][batch * size : (batch + 1) * size]
