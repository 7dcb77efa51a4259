"""Decoding with slots, greedy or sampled: no padding, no decoding for rows that ended.

Prompts are prefilled as one packed row straight into a slot cache; every step then decodes one token for each active
slot. A finished sequence gives its slot to the next prompt, so the batch stays full until the prompts run out. The
result of a prompt does not depend on its neighbours except through the rounding of matrix products (bfloat16 shows it,
float32 hardly).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from alttrain.backbone.attention import Rows, SlotCache
from alttrain.generation.config import Decoding

PREFILL_TOKENS = 4096
"""Most prompt tokens in one prefill, which bounds its activations; a longer prompt goes alone."""


@dataclass
class _Active:
    """A sequence in a slot: which prompt it answers, where its next token stands, and what it wrote so far.

    `draws` are the uniform numbers its tokens are drawn with, its own whatever else is decoded beside it.
    """

    prompt: int
    position: int
    draws: random.Random
    written: list[int] = field(default_factory=list)


class Decoder:
    """Decodes batches of prompts with one model."""

    def __init__(self, model: Any, end_id: int, slots: int, device: str) -> None:
        self.model = model
        self.end_id = end_id
        self.slots = slots
        self.device = device

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[list[int]],
        decoding: Decoding,
        names: Sequence[str] = (),
        on_finished: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """The tokens written for each prompt, the end token included where it came within `max_new_tokens`.

        `names` tell sampled sequences apart: the same name and seed draw the same tokens from the same distribution.
        `on_finished` is called with the number of sequences that ended, for a progress bar.
        """
        written: list[list[int]] = [[] for _ in prompts]
        if not prompts:
            return written
        longest = max(len(prompt) for prompt in prompts) + decoding.max_new_tokens
        cache = SlotCache(min(self.slots, len(prompts)), longest)
        chooser = _Chooser(decoding, cache.slots, self.device)
        waiting = sorted(
            range(len(prompts)), key=lambda index: len(prompts[index])
        )  # popped from the end: longest first
        active: list[_Active] = []
        while waiting or active:
            if waiting and len(active) < cache.slots:
                self._admit(prompts, names, waiting, active, cache, chooser)
            else:
                self._step(active, cache, chooser)
            ended = self._retire(active, cache, chooser, written, decoding.max_new_tokens)
            if ended and on_finished:
                on_finished(ended)
        return written

    def _admit(
        self,
        prompts: Sequence[list[int]],
        names: Sequence[str],
        waiting: list[int],
        active: list[_Active],
        cache: SlotCache,
        chooser: "_Chooser",
    ) -> None:
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
        first = len(active)
        logits = self._forward(ids, positions, Rows(lengths, cache, first_slot=first), ends)
        for slot, (index, length) in enumerate(zip(group, lengths, strict=True), first):
            name = names[index] if names else str(index)
            active.append(_Active(index, length, random.Random(f"{chooser.decoding.seed}\x1f{name}")))
            chooser.see(slot, prompts[index], logits.shape[-1])
        for row, token in zip(active[first:], chooser.choose(logits, active[first:], first), strict=True):
            row.written.append(token)

    def _step(self, active: list[_Active], cache: SlotCache, chooser: "_Chooser") -> None:
        positions = [row.position for row in active]
        rows = Rows.decoding(cache, torch.tensor(positions, device=self.device), max(positions) + 1)
        logits = self._forward([row.written[-1] for row in active], positions, rows, None)
        for row, token in zip(active, chooser.choose(logits, active, 0), strict=True):
            row.position += 1
            row.written.append(token)

    def _forward(self, ids: list[int], positions: list[int], rows: Rows, keep: torch.Tensor | None) -> torch.Tensor:
        """Logits of the next token at the kept positions (all of them by default): (positions, vocabulary)."""
        logits: torch.Tensor = self.model(
            input_ids=torch.tensor([ids], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            rows=rows,
            use_cache=False,
            logits_to_keep=0 if keep is None else keep.to(self.device),
        ).logits
        return logits[0]

    def _retire(
        self,
        active: list[_Active],
        cache: SlotCache,
        chooser: "_Chooser",
        written: list[list[int]],
        max_new_tokens: int,
    ) -> int:
        """Take ended sequences out of their slots; the last active one moves into the gap."""
        ended = 0
        for slot in range(len(active) - 1, -1, -1):
            row = active[slot]
            if row.written[-1] == self.end_id or len(row.written) == max_new_tokens:
                written[row.prompt] = row.written
                last = active.pop()
                if last is not row:
                    cache.move(len(active), slot, last.position)
                    chooser.move(len(active), slot)
                    active[slot] = last
                ended += 1
        return ended


class _Chooser:
    """Chooses each sequence's next token from its logits."""

    def __init__(self, decoding: Decoding, slots: int, device: str) -> None:
        self.decoding = decoding
        self.slots = slots
        self.device = device
        self.seen: torch.Tensor | None = None  # (slots, vocabulary): tokens that stand in prompt or response

    def see(self, slot: int, prompt: list[int], vocabulary: int) -> None:
        """Note a new prompt's tokens, where repetition is penalised."""
        if self.decoding.repetition_penalty == 1.0:
            return
        if self.seen is None:
            self.seen = torch.zeros(self.slots, vocabulary, dtype=torch.bool, device=self.device)
        self.seen[slot] = False
        self.seen[slot, prompt] = True

    def move(self, source: int, target: int) -> None:
        """A sequence changed its slot."""
        if self.seen is not None:
            self.seen[target] = self.seen[source]

    def choose(self, logits: torch.Tensor, rows: Sequence[_Active], first_slot: int) -> list[int]:
        """The next token of each row; row i stands in slot `first_slot + i`."""
        slots = slice(first_slot, first_slot + len(rows))
        if self.seen is not None:
            logits = logits.float()
            penalty = self.decoding.repetition_penalty
            lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(self.seen[slots], lowered, logits)
        if self.decoding.temperature == 0:
            chosen = logits.argmax(-1)
        else:
            draws = torch.tensor([row.draws.random() for row in rows], device=logits.device)
            chosen = draw(logits.float() / self.decoding.temperature, self.decoding.top_p, draws)
        if self.seen is not None:
            self.seen[slots].scatter_(1, chosen[:, None], True)
        return chosen.tolist()


def draw(logits: torch.Tensor, top_p: float, draws: torch.Tensor) -> torch.Tensor:
    """A token of each row of `logits` (rows, vocabulary), by a uniform number of [0, 1) each.

    The nucleus is the fewest likeliest tokens whose probabilities reach `top_p` (Holtzman et al., 2020); the number
    picks in it by the inverse of the cumulative distribution.
    """
    ordered, tokens = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    reached = ordered.cumsum(-1)
    nucleus = (reached - ordered < top_p).sum(-1, keepdim=True)
    total = reached.gather(1, nucleus - 1)
    picked = torch.searchsorted(reached, draws[:, None] * total, right=True).minimum(nucleus - 1)
    return tokens.gather(1, picked)[:, 0]
