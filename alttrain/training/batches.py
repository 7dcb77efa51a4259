"""Training data: token sequences -> packed batches in a seeded order.

A batch holds the same `batch_size` examples as a padded batch would, concatenated into one row. Each epoch's order is a
permutation that depends only on the seed and the epoch, so a resumed training continues with the same batches.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from alttrain import tokenization
from alttrain.training import Mean, SupervisedFineTuning


class _Movable:
    """Base of dataclasses whose tensors move between devices together."""

    def to(self, device: Any) -> Self:
        """Return a copy with all tensors on `device`. Lightning calls this."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")}
        return replace(self, **tensors)  # type: ignore[type-var]


@dataclass(frozen=True)
class PackedBatch(_Movable):
    """Examples of one pass, concatenated into one row.

    In place of labels it has the positions that predict a response token (`logit_positions`) and those tokens
    (`targets`): only their logits are computed. The mean loss of a pass times `loss_scale`, averaged over the step's
    passes and devices, is the step's mean loss.
    """

    ids: Tensor  # (1, tokens)
    positions: Tensor  # (1, tokens)
    lengths: list[int]  # the tokens of each sequence
    logit_positions: Tensor  # (targets,): a target is the token after its position
    targets: Tensor  # (targets,)
    tokens: int  # of the examples, without padding
    loss_scale: float = 1.0  # 0 for an example that is only there because a device has none
    token_weights: Tensor | None = None  # (targets,): with mean 1; None weights all tokens equally
    marked: "MarkedBatch | None" = None  # the data of SafeKey's losses


@dataclass(frozen=True)
class MarkedBatch(_Movable):
    """Data for SafeKey's losses.

    If no example is marked, the longest one is there with `share` 0, so that every device runs the same passes.
    """

    key: PackedBatch  # the understandings and key sentences, without the requests before them
    # places in the whole row, per marked example: where it starts, where its response starts, its understanding's end
    spans: list[tuple[int, int, int]]
    harmful: Tensor  # (spans,): 1 or 0
    share: float  # the fraction of examples that are marked


class _Part(NamedTuple):
    """One sequence of a row. `loss_start` is the index of the first token with a loss."""

    ids: list[int]
    first_position: int
    loss_start: int


def pack(
    sequences: Sequence[tokenization.Sequence],
    multiple: int = 1,
    loss_scale: float = 1.0,
    mean_over: Mean = "tokens",
    marks: bool = False,
) -> PackedBatch:
    """Concatenate sequences into one row, longest first. Position ids restart with each sequence.

    A last sequence without loss pads the row to a `multiple` of tokens, so that compiled code sees few row lengths.
    `marks` adds the data of SafeKey's losses.
    """
    sequences = sorted(sequences, key=len, reverse=True)
    batch = _joined([_Part(s.ids, 0, len(s.prompt)) for s in sequences], multiple, mean_over)
    return replace(batch, loss_scale=loss_scale, marked=_marked(sequences, multiple) if marks else None)


def _joined(parts: Sequence[_Part], multiple: int, mean_over: Mean) -> PackedBatch:
    padding = -sum(len(part.ids) for part in parts) % multiple
    padded = [*parts, _Part([0] * padding, 0, padding)] if padding else parts
    positions, counts, start = list[int](), list[int](), 0
    for part in parts:
        first = start + part.loss_start - 1  # the position that predicts the first token with a loss
        counts.append(len(part.ids) - part.loss_start)
        positions += range(first, first + counts[-1])
        start += len(part.ids)
    weights = None
    if mean_over == "examples":
        weights = torch.tensor([len(positions) / len(parts) / count for count in counts for _ in range(count)])
    return PackedBatch(
        ids=torch.tensor([[token for part in padded for token in part.ids]]),
        positions=torch.tensor([[part.first_position + offset for part in padded for offset in range(len(part.ids))]]),
        lengths=[len(part.ids) for part in padded],
        logit_positions=torch.tensor(positions),
        targets=torch.tensor([token for part in parts for token in part.ids[part.loss_start :]]),
        tokens=start,
        token_weights=weights,
    )


def _marked(sequences: Sequence[tokenization.Sequence], multiple: int) -> MarkedBatch:
    all_marks = [sequence.marks for sequence in sequences]
    share = sum(marks is not None for marks in all_marks) / len(all_marks)
    if not share:
        all_marks[0] = tokenization.Marks(1, 2, False)
    spans, parts, harmful, start = [], [], [], 0
    for sequence, marks in zip(sequences, all_marks, strict=True):
        if marks is not None:
            response_start = start + len(sequence.prompt)
            spans.append((start, response_start, response_start + marks.understood))
            harmful.append(float(marks.harmful))
            parts.append(_Part(sequence.response[: marks.key], len(sequence.prompt), marks.understood))
        start += len(sequence)
    key = _joined(sorted(parts, key=lambda part: -len(part.ids)), multiple, "examples")
    return MarkedBatch(key, spans, torch.tensor(harmful), share)


@dataclass(eq=False)
class BatchStream:
    """All batches of a training from step `start` on. One iteration is the whole training, over all epochs.

    It yields the passes of each step in turn: each step's batch is split over `devices`, of which this is number
    `device`, and on each device into `passes`.
    """

    sequences: Sequence[tokenization.Sequence]
    recipe: SupervisedFineTuning
    seed: int
    start: int = 0
    multiple: int = 1
    devices: int = 1
    device: int = 0
    passes: int = 1

    def __post_init__(self) -> None:
        self.steps_per_epoch = self.recipe.steps_per_epoch(len(self.sequences))
        self.steps = self.recipe.steps(len(self.sequences))
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def tokens(self) -> int:
        """Return the tokens of all steps."""
        return sum(len(self.sequences[index]) for step in range(self.steps) for index in self.members(step))

    def __len__(self) -> int:
        return self.steps * self.passes

    def __iter__(self) -> Iterator[PackedBatch]:
        mean_over, parts = self.recipe.objective.mean_over, self.passes * self.devices
        first_marked_step = self.steps - self.recipe.objective.last_epochs * self.steps_per_epoch

        def weight(sequences: Sequence[tokenization.Sequence]) -> int:
            return sum(1 if mean_over == "examples" else len(sequence.response) for sequence in sequences)

        for step in range(self.start, self.steps):
            batch = sorted((self.sequences[index] for index in self.members(step)), key=len, reverse=True)
            for number in range(self.passes):
                part = batch[number * self.devices + self.device :: parts]
                scale = weight(part) / weight(batch) * parts
                # devices wait for each other: a pass without examples runs the shortest one, with a scale of 0
                yield pack(part or batch[-1:], self.multiple, scale, mean_over, step >= first_marked_step)

    def members(self, step: int) -> list[int]:
        """Return the indices of the sequences in the batch of a step."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = list(range(len(self.sequences)))
            random.Random(f"epoch-{self.seed}-{epoch}").shuffle(order)
            self._order = epoch, order
        size = self.recipe.batch_size
        return self._order[1][batch * size : (batch + 1) * size]
