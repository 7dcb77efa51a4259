"""Training data: examples -> token sequences (cached) -> packed batches in a seeded order.

A batch holds the same `batch_size` examples as a padded batch would, concatenated into one row. Each epoch's order is a
permutation that depends only on the seed and the epoch, so a resumed training continues with the same batches.
"""

import hashlib
import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from alttrain import __version__, tokenization
from alttrain.records import DamagedError, Example, from_cache, read_bytes, replacing, seal
from alttrain.tokenization import Renderer
from alttrain.training.config import Mean, SupervisedFineTuning


def tokenized(renderer: Renderer, examples: Sequence[Example], folder: Path) -> list[tokenization.Sequence]:
    """Return `renderer.render(examples)`, cached in `folder` because tokenizing long thoughts takes minutes.

    FOLDER/KEY.npz holds `tokens`, the concatenated ids of all examples, and `lengths` (examples, 2), the number of
    prompt and response tokens of each. KEY hashes the tokenizer, the template, the system prompt, the package version
    and the examples. A damaged file is made again.
    """
    template, system = asdict(renderer.backbone.template), renderer.backbone.system_prompt
    shaping = {"alttrain": __version__, "said": "text", "template": template, "system": system}
    digest = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode())
    digest.update(renderer.tokenizer.backend_tokenizer.to_str().encode())
    for example in examples:
        digest.update(repr(example).encode())
    path = folder / f"{digest.hexdigest()[:32]}.npz"
    if (kept := from_cache(path, lambda path: _read(path, examples))) is not None:
        return kept
    sequences = renderer.render(examples)
    tokens = np.array([token for sequence in sequences for token in sequence.ids], dtype=np.int32)
    lengths = np.array([(len(s.prompt), len(s.response)) for s in sequences], dtype=np.int64).reshape(-1, 2)
    with replacing(path) as file:
        np.savez(file, tokens=tokens, lengths=lengths)
    seal(path)
    return sequences


def _read(path: Path, examples: Sequence[Example]) -> list[tokenization.Sequence]:
    with np.load(io.BytesIO(read_bytes(path))) as arrays:
        tokens, lengths = arrays["tokens"].tolist(), arrays["lengths"].tolist()
    if sum(map(sum, lengths)) != len(tokens):
        raise DamagedError(path, "the number of tokens is not the sum of the lengths")
    sequences, start = [], 0
    for example, (prompt, response) in zip(examples, lengths, strict=True):
        middle, end = start + prompt, start + prompt + response
        sequences.append(tokenization.Sequence(example.id, tokens[start:middle], tokens[middle:end]))
        start = end
    return sequences


class _Movable:
    """Base of dataclasses whose tensors move between devices together."""

    def to(self, device: Any) -> Self:
        """Return a copy with all tensors on `device`. Lightning calls this."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")}
        return replace(self, **tensors)  # type: ignore[type-var]


@dataclass(frozen=True)
class PackedBatch(_Movable):
    """Examples of one pass, concatenated into one row.

    `ids` and `positions` are (1, tokens); `lengths` holds the tokens of each sequence. `keep` (predicted,) are the
    positions whose logits predict a response token, and `targets` (predicted,) are those tokens. `relative`
    (predicted,) holds token weights with mean 1; None weights all tokens equally. The batch's mean loss times `share`,
    averaged over the step's passes and devices, is the step's mean loss. `marked` holds the data of SafeKey's losses.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: list[int]
    keep: torch.Tensor
    targets: torch.Tensor
    share: float = 1.0
    relative: torch.Tensor | None = None
    marked: "MarkedBatch | None" = None


@dataclass(frozen=True)
class MarkedBatch(_Movable):
    """Data for SafeKey's losses. `key` packs the understandings and key sentences, without the requests before them.

    `spans` has three positions in the whole row per marked example: the start of the example, the start of its
    response, and the end of its understanding. `harmful` (spans,) is 1 or 0. `share` is the fraction of examples that
    are marked. If none is, one example takes their place with `share` 0, so that every device runs the same passes.
    """

    key: PackedBatch
    spans: list[tuple[int, int, int]]
    harmful: torch.Tensor
    share: float


class _Part(NamedTuple):
    """One sequence of a row: its tokens, its first position id, and the index of the first token with loss."""

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
    """Concatenate sequences into one row, longest first. Position ids restart with each sequence.

    A last sequence without loss pads the row to a `multiple` of tokens, so that compiled code sees few row lengths.
    `marks` adds the data of SafeKey's losses.
    """
    sequences = sorted(sequences, key=len, reverse=True)
    batch = _joined([_Part(s.ids, 0, len(s.prompt)) for s in sequences], multiple, mean_over)
    return replace(batch, share=share, marked=_marked(sequences, multiple) if marks else None)


def _joined(parts: Sequence[_Part], multiple: int, mean_over: Mean) -> PackedBatch:
    padding = -sum(len(part.ids) for part in parts) % multiple
    padded = [*parts, _Part([0] * padding, 0, padding)] if padding else parts
    keep, counts, start = list[int](), list[int](), 0
    for part in parts:
        first = start + part.trained - 1  # the position that predicts the first response token
        counts.append(len(part.ids) - part.trained)
        keep += range(first, first + counts[-1])
        start += len(part.ids)
    even = None
    if mean_over == "examples":
        even = torch.tensor([len(keep) / len(parts) / count for count in counts for _ in range(count)])
    return PackedBatch(
        ids=torch.tensor([[token for part in padded for token in part.ids]]),
        positions=torch.tensor([[part.position + offset for part in padded for offset in range(len(part.ids))]]),
        lengths=[len(part.ids) for part in padded],
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
    """Splits a step's examples over `devices`, then on each device into passes of at most `per_pass` examples.

    `device` is the index of this device.
    """

    devices: int = 1
    device: int = 0
    per_pass: int | None = None

    def passes(self, batch_size: int) -> int:
        """Return the passes per step on each device. The number is the same for every device and step."""
        own = -(-batch_size // self.devices)
        return -(-own // (self.per_pass or own))


class BatchStream:
    """All batches of a training from step `start` on. One iteration is the whole training, over all epochs.

    With several devices or passes, it yields this device's passes of each step in turn.
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
        self.steps_per_epoch = recipe.steps_per_epoch(len(sequences))
        self.steps = recipe.steps(len(sequences))
        self.passes = division.passes(recipe.batch_size)
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def tokens(self) -> int:
        """Total tokens of all steps."""
        epochs, rest = divmod(self.steps, self.steps_per_epoch)
        begun = [index for step in range(self.steps - rest, self.steps) for index in self.members(step)]
        return epochs * sum(map(len, self.sequences)) + sum(len(self.sequences[index]) for index in begun)

    def __len__(self) -> int:
        return self.steps * self.passes

    def __iter__(self) -> Iterator[PackedBatch]:
        marked_from = self.steps - self.recipe.objective.last_epochs * self.steps_per_epoch
        for step in range(self.start, self.steps):
            yield from self._divided([self.sequences[index] for index in self.members(step)], step >= marked_from)

    def _divided(self, examples: list[tokenization.Sequence], marks: bool) -> Iterator[PackedBatch]:
        """Yield this device's passes over the examples of a step.

        Devices wait for each other, so a pass without examples runs the shortest one with a share of 0.
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
        """Return the indices of the sequences in the batch of a step."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = list(range(len(self.sequences)))
            random.Random(f"epoch-{self.seed}-{epoch}").shuffle(order)
            self._order = epoch, order
        size = self.recipe.batch_size
        return self._order[1][batch * size : (batch + 1) * size]
