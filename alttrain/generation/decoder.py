"""Greedy or sampled decoding in this process, in plain eager torch, by continuous batching over slots.

Prompts are prefilled as one packed row into the slots of a cache; each step then decodes one token for every slot in
use. A finished sequence leaves its slot to the next prompt. What all prompts begin with, such as a system prompt, is
computed once. The answer to a prompt depends on its neighbours only by the rounding of matrix products, which bfloat16
shows and float32 hardly.

Keys and values take at most `memory` bytes: there are fewer slots where all of them would take more. If memory runs out
all the same, the slots are halved, and their sequences are prefilled again with what they have so far.
"""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from alttrain.backbone.attention import PackedSequences, Prefix, SlotCache
from alttrain.backbone.device import give_back_freed_memory
from alttrain.backbone.memory import PREFILL_TOKENS, cache_bytes, shape_of
from alttrain.generation.engine import Decoding
from alttrain.generation.sampling import Sampler

log = logging.getLogger(__name__)

SHARED_TOKENS = 16
"""Shortest common beginning that is worth a forward pass of its own."""


@dataclass
class _Sequence:
    """A prompt, what was written to it, its most new tokens, and the random numbers its tokens are drawn with."""

    number: int
    prompt: list[int]
    draws: random.Random
    cap: int
    written: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.written

    @property
    def position(self) -> int:
        """Of its newest token."""
        return len(self.prompt) + len(self.written) - 1


class Decoder:
    """Decodes batches of prompts with one model, `slots` sequences at a time.

    `memory` is the most bytes of keys and values; None is as many as all slots need.
    """

    def __init__(self, model: Any, end_id: int, slots: int, device: str, memory: int | None = None) -> None:
        self.model = model
        self.end_id = end_id
        self.slots = slots
        self.device = torch.device(device)
        self.memory = memory

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        names: Sequence[str] = (),
        on_finished: Callable[[int], None] | None = None,
        caps: Sequence[int] = (),
    ) -> list[list[int]]:
        """The tokens written to each prompt, with the end token where it came within `max_new_tokens`.

        A sampled sequence draws by the seed and its name in `names`, whatever is decoded beside it. `on_finished` gets
        the number of sequences that have just ended. `caps` are lower numbers of tokens, one a prompt.
        """
        if not prompts:
            return []
        sequences = [
            _Sequence(
                number,
                prompt,
                random.Random(f"{decoding.seed}\x1f{names[number] if names else number}"),
                min(decoding.max_new_tokens, caps[number]) if caps else decoding.max_new_tokens,
            )
            for number, prompt in enumerate(prompts)
        ]
        batch = _Batch(self, sequences, decoding)
        written = batch.finish(on_finished)
        del batch
        give_back_freed_memory()
        return written

    def forward(
        self, ids: list[int], positions: list[int], packed: PackedSequences, keep: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Logits (positions kept, vocabulary) of one packed row; all positions where `keep` names none."""
        kept = {} if keep is None else {"logits_to_keep": torch.tensor(keep, device=self.device)}
        logits: torch.Tensor = self.model(
            input_ids=torch.tensor([ids], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            packed=packed,
            use_cache=False,
            **kept,
        ).logits
        return logits[0]

    def token_bytes(self) -> int | None:
        """Bytes of keys and values for one token; None for a model whose shape is not known."""
        shape = shape_of(self.model.config.to_dict())
        return cache_bytes(shape, self.model.dtype.itemsize, 1, 1) if shape else None


class _Batch:
    """One call of `Decoder.generate`: the sequences that wait, those that have a slot, and the cache."""

    def __init__(self, decoder: Decoder, sequences: list[_Sequence], decoding: Decoding) -> None:
        self.decoder = decoder
        self.decoding = decoding
        self.answers: list[list[int]] = [[] for _ in sequences]
        # taken from the end: the longest prompt first, so that too little memory shows at once
        self.waiting = sorted(sequences, key=lambda sequence: len(sequence.prompt))
        self.active: list[_Sequence] = []
        self.longest = max(len(sequence.prompt) + sequence.cap for sequence in sequences)
        slots, each = min(decoder.slots, len(sequences)), decoder.token_bytes()
        if decoder.memory is not None and each:
            slots = max(1, min(slots, decoder.memory // (each * self.longest)))
        self._allocate(slots)
        self.prefix = self._shared_prefix()

    def _allocate(self, slots: int) -> None:
        self.cache = SlotCache(slots, self.longest)
        self.sampler = Sampler(self.decoding, slots, self.decoder.device)

    def _shared_prefix(self) -> Prefix | None:
        """What all prompts begin with, computed once; each keeps at least one token of its own."""
        first, last = min(row.prompt for row in self.waiting), max(row.prompt for row in self.waiting)
        shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        shared = min(shared, min(len(row.prompt) for row in self.waiting) - 1)
        if shared < SHARED_TOKENS or len(self.waiting) == 1:
            return None
        self.decoder.forward(first[:shared], list(range(shared)), PackedSequences([shared], self.cache), [shared - 1])
        return self.cache.prefix(shared)

    def finish(self, on_finished: Callable[[int], None] | None) -> list[list[int]]:
        """Decode until every sequence has ended. Raises torch.OutOfMemoryError where there is no room for one slot."""
        while self.waiting or self.active:
            try:
                if self.waiting and len(self.active) < self.cache.slots:
                    self._prefill()
                else:
                    self._step()
            except torch.OutOfMemoryError:
                if self.cache.slots == 1:
                    raise
                log.warning("generate  out of memory with %d slots; going on with half of them", self.cache.slots)
                self.waiting += reversed(self.active)
                self.active = []
                self._allocate(self.cache.slots // 2)
                if self.decoder.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            if (ended := self._retire()) and on_finished:
                on_finished(ended)
        return self.answers

    def _prefill(self) -> None:
        """Give free slots to waiting sequences, up to `PREFILL_TOKENS`, and write each one's next token."""
        begun, tokens, group = self.prefix.length if self.prefix else 0, 0, list[_Sequence]()
        for row in reversed(self.waiting):
            own = len(row.ids) - begun
            if len(self.active) + len(group) == self.cache.slots or (group and tokens + own > PREFILL_TOKENS):
                break
            group.append(row)
            tokens += own
        lengths = [len(row.ids) - begun for row in group]
        ends = torch.tensor(lengths).cumsum(0) - 1
        first = len(self.active)
        logits = self.decoder.forward(
            [token for row in group for token in row.ids[begun:]],
            [begun + place for length in lengths for place in range(length)],
            PackedSequences(lengths, self.cache, first, self.prefix),
            ends.tolist(),
        )
        del self.waiting[len(self.waiting) - len(group) :]
        self.active += group
        for slot, row in enumerate(group, first):
            self.sampler.see(slot, row.ids, logits.shape[-1])
        self._write(group, logits, first)

    def _step(self) -> None:
        """Write the next token of every active sequence."""
        positions = [row.position for row in self.active]
        packed = PackedSequences.decoding(self.cache, positions, self.decoder.device)
        self._write(self.active, self.decoder.forward([row.written[-1] for row in self.active], positions, packed), 0)

    def _write(self, rows: Sequence[_Sequence], logits: torch.Tensor, first_slot: int) -> None:
        draws = [row.draws.random() for row in rows] if self.decoding.temperature else []
        for row, token in zip(rows, self.sampler.sample(logits, draws, first_slot), strict=True):
            row.written.append(token)

    def _retire(self) -> int:
        """Take the sequences that have ended out of their slots; returns how many."""
        ended = 0
        for slot in range(len(self.active) - 1, -1, -1):
            row = self.active[slot]
            if row.written[-1] != self.decoder.end_id and len(row.written) < row.cap:
                continue
            self.answers[row.number] = row.written
            last = self.active.pop()
            if last is not row:  # the last active sequence fills the gap
                self.cache.move(len(self.active), slot, last.position)
                self.sampler.move(len(self.active), slot)
                self.active[slot] = last
            ended += 1
        return ended
