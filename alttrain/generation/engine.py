"""Decoding with slots, greedy or sampled: no padding, no decoding for rows that ended, memory that has a bound.

Prompts are prefilled as one packed row straight into a slot cache; every step then decodes one token for each slot in
use. A finished sequence gives its slot to the next prompt, so the batch stays full until the prompts run out. What all
prompts begin with, such as a system prompt, is computed once. The result of a prompt does not depend on its neighbours
except through the rounding of matrix products (bfloat16 shows it, float32 hardly).

Keys and values take at most `memory` bytes. Where slots times the longest possible sequence would be more, the cache
begins with shorter slots; when a sequence outgrows them they become longer and fewer, and the sequences that lose their
slot wait and are prefilled again with what they wrote. Out of memory all the same, the number of slots is halved.
"""

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from alttrain.backbone.attention import Rows
from alttrain.backbone.compiling import compile_layers
from alttrain.backbone.device import give_back_freed_memory
from alttrain.backbone.memory import cache_bytes, shape_of
from alttrain.backbone.products import PackedWeights
from alttrain.backbone.slots import Prefix, SlotCache
from alttrain.generation.choosing import Chooser
from alttrain.generation.config import Decoding
from alttrain.generation.steps import Recorded, cuda_recorder

log = logging.getLogger(__name__)

PREFILL_TOKENS = 4096
"""Most prompt tokens in one prefill, which bounds its activations; a longer prompt goes alone."""
SHARED_TOKENS = 16
"""Least length of a common beginning that is worth a pass of its own."""
FIRST_ROOM = 64
"""New tokens that a slot has room for at the beginning, at least, where memory is short."""


@dataclass
class _Sequence:
    """A prompt and what was written to it. `draws` are the uniform numbers its tokens are drawn with, its own whatever
    else is decoded beside it. `cap` is the most tokens it may have.
    """

    number: int
    prompt: list[int]
    draws: random.Random
    cap: int
    written: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """All tokens so far."""
        return self.prompt + self.written

    @property
    def position(self) -> int:
        """Where its newest token stands."""
        return len(self.prompt) + len(self.written) - 1


class Decoder:
    """Decodes batches of prompts with one model.

    `memory` are the bytes that keys and values may take (None: as many as all slots need), `steps` is how a decode step
    is launched, "recorded" and "compiled" being for CUDA. On a CPU its weights may stand in memory twice
    (`backbone.products`).
    """

    def __init__(
        self,
        model: Any,
        end_id: int,
        slots: int,
        device: str,
        memory: int | None = None,
        steps: Literal["eager", "recorded", "compiled"] = "eager",
    ) -> None:
        self.model = model
        self.end_id = end_id
        self.slots = slots
        self.device = torch.device(device)
        self.memory = memory
        self.compiled = steps == "compiled"
        self._packed = PackedWeights(model)
        self._recorder = None if steps == "eager" else cuda_recorder()
        self._recorded: Recorded | None = None
        if self.compiled:
            compile_layers(model, dynamic=True)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        names: Sequence[str] = (),
        on_finished: Callable[[int], None] | None = None,
        caps: Sequence[int] = (),
    ) -> list[list[int]]:
        """The tokens written for each prompt, the end token included where it came within `max_new_tokens`.

        `names` tell sampled sequences apart: the same name and seed draw the same tokens from the same distribution.
        `on_finished` is called with the number of sequences that ended, for a progress bar. `caps` are lower numbers
        of tokens, one a prompt.
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
        try:
            with self._packed.used():
                return _Batch(self, sequences, decoding).finish(on_finished)
        finally:
            self.forget()
            if self.device.type == "cpu":
                give_back_freed_memory()

    def forward(self, ids: list[int], positions: list[int], rows: Rows, keep: torch.Tensor) -> torch.Tensor:
        """Prefill: logits of the next token at the kept positions (positions, vocabulary)."""
        # prompts come in as many lengths as there are, and would each be compiled for
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            logits: torch.Tensor = self.model(
                input_ids=torch.tensor([ids], device=self.device),
                position_ids=torch.tensor([positions], device=self.device),
                rows=rows,
                use_cache=False,
                logits_to_keep=keep.to(self.device),
            ).logits
        return logits[0]

    def step(self, ids: list[int], positions: list[int], cache: SlotCache) -> torch.Tensor:
        """Logits after the newest token of each of the first slots: (slots in use, vocabulary)."""
        if self._recorder is None:
            at = torch.tensor([positions], device=self.device)
            return self._next_logits(torch.tensor([ids], device=self.device), at, max(positions) + 1, cache)
        if self._recorded is None:
            forward = partial(self._next_logits, cache=cache)
            self._recorded = Recorded(forward, cache, self.device, self._recorder)
        return self._recorded.step(ids, positions)

    def forget(self) -> None:
        """Give up what was recorded over a cache, which is about to change or to go."""
        self._recorded = None

    def _next_logits(self, ids: torch.Tensor, positions: torch.Tensor, reach: int, cache: SlotCache) -> torch.Tensor:
        rows = Rows.decoding(cache, positions[0], reach)
        logits: torch.Tensor = self.model(input_ids=ids, position_ids=positions, rows=rows, use_cache=False).logits
        return logits[0]

    def token_bytes(self) -> int | None:
        """Bytes of keys and values for one token; None for a model whose shape is not known."""
        shape = shape_of(self.model.config.to_dict())
        return cache_bytes(shape, self.model.dtype.itemsize, 1, 1) if shape else None


class _Batch:
    """One call of `Decoder.generate`: who waits, who has a slot, and the cache."""

    def __init__(self, decoder: Decoder, sequences: list[_Sequence], decoding: Decoding) -> None:
        self.decoder = decoder
        self.decoding = decoding
        self.written: list[list[int]] = [[] for _ in sequences]
        # taken from the end: the longest first, so that too little memory shows at once
        self.waiting = sorted(sequences, key=lambda sequence: len(sequence.prompt))
        self.active: list[_Sequence] = []
        self.longest = max(len(sequence.prompt) + sequence.cap for sequence in sequences)
        self.prefix: Prefix | None = None
        slots, length = self._first_size()
        self.cache = SlotCache(slots, length)
        self.chooser = Chooser(decoding, slots, decoder.device)

    def _first_size(self) -> tuple[int, int]:
        """(slots, length): all the room there can be need of, or as much of it as memory allows."""
        slots = min(self.decoder.slots, len(self.waiting))
        budget = self._budget()
        if budget is None or slots * self.longest <= budget:
            return slots, self.longest
        length = min(self.longest, max(budget // slots, len(self.waiting[-1].prompt) + FIRST_ROOM))
        return max(1, min(slots, budget // length)), length

    def _budget(self) -> int | None:
        """Tokens that the cache may hold."""
        each = self.decoder.token_bytes()
        return None if self.decoder.memory is None or not each else self.decoder.memory // each

    def finish(self, on_finished: Callable[[int], None] | None) -> list[list[int]]:
        """Decode until every sequence ended."""
        self._share_prefix()
        while self.waiting or self.active:
            try:
                self._advance()
            except torch.OutOfMemoryError:
                if self.cache.slots == 1:
                    raise
                log.warning("generate  out of memory with %d slots; going on with half of them", self.cache.slots)
                self._resize(self.cache.slots // 2, self.cache.length)
                if self.decoder.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            if (ended := self._retire()) and on_finished:
                on_finished(ended)
        return self.written

    def _share_prefix(self) -> None:
        """Compute what all prompts begin with; each keeps at least one token of its own."""
        first, last = min(row.prompt for row in self.waiting), max(row.prompt for row in self.waiting)
        most = min(len(row.prompt) for row in self.waiting) - 1
        same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        if min(same, most) < SHARED_TOKENS or len(self.waiting) == 1:
            return
        self.prefix = Prefix(min(same, most))
        ids = first[: self.prefix.length]
        rows = Rows([len(ids)], becomes=self.prefix)
        self.decoder.forward(ids, list(range(len(ids))), rows, torch.tensor([len(ids) - 1]))

    def _advance(self) -> None:
        """One prefill, if there is somebody waiting and a slot free, or else one decode step."""
        if self.waiting and len(self.active) < self.cache.slots:
            self._admit()
            return
        need = max(row.position for row in self.active) + 1
        if need > self.cache.length:
            self._lengthen(need)
        ids, positions = [row.written[-1] for row in self.active], [row.position for row in self.active]
        logits = self.decoder.step(ids, positions, self.cache)
        for row, token in zip(self.active, self.chooser.choose(logits, self._draws(self.active), 0), strict=True):
            row.written.append(token)

    def _draws(self, rows: Sequence[_Sequence]) -> list[float]:
        return [row.draws.random() for row in rows] if self.decoding.temperature else []

    def _admit(self) -> None:
        """Prefill as many waiting sequences as there are free slots and as the token budget allows."""
        begun, tokens = self.prefix.length if self.prefix else 0, 0
        group: list[_Sequence] = []
        for row in reversed(self.waiting):
            own = len(row.ids) - begun
            if len(self.active) + len(group) == self.cache.slots or (group and tokens + own > PREFILL_TOKENS):
                break
            group.append(row)
            tokens += own
        lengths = [len(row.ids) - begun for row in group]
        ids = [token for row in group for token in row.ids[begun:]]
        positions = [begun + place for length in lengths for place in range(length)]
        ends = torch.tensor(lengths).cumsum(0) - 1
        first = len(self.active)
        rows = Rows(lengths, self.cache, first, self.prefix)
        logits = self.decoder.forward(ids, positions, rows, ends)
        del self.waiting[len(self.waiting) - len(group) :]
        self.active += group
        for slot, row in enumerate(group, first):
            self.chooser.see(slot, row.ids, logits.shape[-1])
        for row, token in zip(group, self.chooser.choose(logits, self._draws(group), first), strict=True):
            row.written.append(token)

    def _lengthen(self, need: int) -> None:
        """Longer slots, and fewer where the memory is spent."""
        length, budget = min(self.longest, max(need, 2 * self.cache.length)), self._budget()
        slots = self.cache.slots if budget is None else max(1, min(self.cache.slots, budget // length))
        self._resize(slots, length)

    def _resize(self, slots: int, length: int) -> None:
        """Other slots; the sequences that have none any more wait, those that wrote least, for they cost least."""
        while len(self.active) > slots:
            place = min(range(len(self.active)), key=lambda place: len(self.active[place].ids))
            self.waiting.append(self._leave(place))
        self.decoder.forget()
        self.cache.resize(slots, length)
        self.chooser.resize(slots)

    def _leave(self, place: int) -> _Sequence:
        """Take a sequence out of its slot; the last active one moves into the gap."""
        row, last = self.active[place], self.active.pop()
        if last is not row:
            self.cache.move(len(self.active), place, last.position)
            self.chooser.move(len(self.active), place)
            self.active[place] = last
        return row

    def _retire(self) -> int:
        """Take ended sequences out of their slots; how many did end."""
        ended = 0
        for place in range(len(self.active) - 1, -1, -1):
            row = self.active[place]
            if row.written[-1] == self.decoder.end_id or len(row.written) >= row.cap:
                self.written[row.number] = self._leave(place).written
                ended += 1
        return ended
