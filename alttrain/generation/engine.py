"""Greedy decoding with slots: no padding, no decoding for rows that ended.

Prompts are prefilled as one packed row straight into a slot cache; every step then decodes one token for each active
slot. A finished sequence gives its slot to the next prompt, so the batch stays full until the prompts run out. The
result of a prompt does not depend on its neighbours except through the rounding of matrix products (bfloat16 shows it,
float32 hardly).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from alttrain.backbone.attention import Rows, SlotCache

PREFILL_TOKENS = 4096
"""Most prompt tokens in one prefill, which bounds its activations; a longer prompt goes alone."""


@dataclass
class _Active:
    """A sequence in a slot: which prompt it answers, where its next token stands, and what it wrote so far."""

    prompt: int
    position: int
    written: list[int] = field(default_factory=list)


class GreedyDecoder:
    """Decodes batches of prompts with one model."""

    def __init__(self, model: Any, end_id: int, slots: int, device: str) -> None:
        self.model = model
        self.end_id = end_id
        self.slots = slots
        self.device = device

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], max_new_tokens: int, on_finished: Callable[[int], None] | None = None
    ) -> list[list[int]]:
        """The tokens written for each prompt, the end token included where it came within `max_new_tokens`.

        `on_finished` is called with the number of sequences that ended, for a progress bar.
        """
        written: list[list[int]] = [[] for _ in prompts]
        if not prompts:
            return written
        longest = max(len(prompt) for prompt in prompts) + max_new_tokens
        cache = SlotCache(min(self.slots, len(prompts)), longest)
        waiting = sorted(
            range(len(prompts)), key=lambda index: len(prompts[index])
        )  # popped from the end: longest first
        active: list[_Active] = []
        while waiting or active:
            if waiting and len(active) < cache.slots:
                self._admit(prompts, waiting, active, cache)
            else:
                self._step(active, cache)
            ended = self._retire(active, cache, written, max_new_tokens)
            if ended and on_finished:
                on_finished(ended)
        return written

    def _admit(self, prompts: Sequence[list[int]], waiting: list[int], active: list[_Active], cache: SlotCache) -> None:
        """Prefill as many waiting prompts as there are free slots and as the token budget allows."""
        group: list[int] = []
        while waiting and len(active) + len(group) < cache.slots:
            if group and sum(len(prompts[i]) for i in group) + len(prompts[waiting[-1]]) > PREFILL_TOKENS:
                break
            group.append(waiting.pop())
        lengths = [len(prompts[index]) for index in group]
        ids = [token for index in group for token in prompts[index]]
        positions = [position for length in lengths for position in range(length)]
        ends = torch.tensor(lengths).cumsum(0) - 1
        tokens = self._forward(ids, positions, Rows(lengths, cache, first_slot=len(active)), ends)
        active += [_Active(index, length, [token]) for index, length, token in zip(group, lengths, tokens, strict=True)]

    def _step(self, active: list[_Active], cache: SlotCache) -> None:
        positions = [row.position for row in active]
        rows = Rows.decoding(cache, torch.tensor(positions, device=self.device), max(positions) + 1)
        tokens = self._forward([row.written[-1] for row in active], positions, rows, None)
        for row, token in zip(active, tokens, strict=True):
            row.position += 1
            row.written.append(token)

    def _forward(self, ids: list[int], positions: list[int], rows: Rows, keep: torch.Tensor | None) -> list[int]:
        """The likeliest next token at the kept positions (all of them by default)."""
        logits = self.model(
            input_ids=torch.tensor([ids], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            rows=rows,
            use_cache=False,
            logits_to_keep=0 if keep is None else keep.to(self.device),
        ).logits
        return logits[0].argmax(-1).tolist()  # type: ignore[no-any-return]

    def _retire(self, active: list[_Active], cache: SlotCache, written: list[list[int]], max_new_tokens: int) -> int:
        """Take ended sequences out of their slots; the last active one moves into the gap."""
        ended = 0
        for slot in range(len(active) - 1, -1, -1):
            row = active[slot]
            if row.written[-1] == self.end_id or len(row.written) == max_new_tokens:
                written[row.prompt] = row.written
                last = active.pop()
                if last is not row:
                    cache.move(len(active), slot, last.position)
                    active[slot] = last
                ended += 1
        return ended
