"""Greedy or sampled decoding in this process, in eager torch, with continuous batching over cache slots.

The loop is `_Scheduler.run`. Waiting prompts are prefilled as one packed row into the free slots of a cache. Each step
then decodes one token for every running sequence. When a sequence ends, its slot goes to the next prompt. What a prompt
has in common with one that is in a slot, such as a system prompt or the beginning of a thought, is copied from there,
and prompts that begin alike are decoded next to each other. Batch composition changes a result only through the
rounding of matrix products, which is noticeable in bfloat16 and negligible in float32.

The cache takes at most `memory` bytes; the number of slots is reduced to fit. If memory still runs out, the number of
slots is halved and the running sequences are prefilled again with the tokens generated so far.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alttrain.backbone.attention import PackedSequences, SlotCache
from alttrain.backbone.device import give_back_freed_memory
from alttrain.backbone.memory import PREFILL_TOKENS, cache_bytes, shape_of
from alttrain.generation.engine import Advance, Decoding, Prompt, ignore_progress

log = logging.getLogger(__name__)

SHARED_TOKENS = 16  # of the shortest beginning that is copied
OWN_TOKENS = 4  # of a prompt that are computed at least: on a CPU, products of fewer rows are rounded differently
BLOCK = 128  # tokens of the vocabulary; two searches over short rows are faster than one over a long row
LIKELIEST = 128  # tokens searched for the nucleus before the whole vocabulary of a row is sorted


@dataclass
class _Sequence:
    """One prompt with its random numbers, its limit on new tokens (`cap`) and its generated tokens (`new_ids`)."""

    number: int
    prompt: list[int]
    draws: random.Random
    cap: int
    new_ids: list[int] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.new_ids

    def draw(self) -> float:
        """Return the random number of the next token: the same one again if memory ran out before it was chosen."""
        if len(self.drawn) == len(self.new_ids):
            self.drawn.append(self.draws.random())
        return self.drawn[-1]

    @property
    def position(self) -> int:
        """Position of the newest token."""
        return len(self.prompt) + len(self.new_ids) - 1


class Decoder:
    """Generates for batches of prompts with one model, `slots` sequences at a time.

    A sequence ends with the token `end_id`, or with an end token of the model's generation_config, as in transformers
    and vLLM: Qwen3 also ends with <|endoftext|>. `memory` limits the cache's keys and values, in bytes; None sets no
    limit.
    """

    def __init__(self, model: Any, end_id: int, slots: int, device: str, memory: int | None = None) -> None:
        self.model, self.slots, self.memory = model, slots, memory
        own = model.generation_config.eos_token_id
        self.ends = {end_id, *([own] if isinstance(own, int) else own or ())}
        self.device = torch.device(device)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Prompt], decoding: Decoding, advance: Advance = ignore_progress
    ) -> list[list[int]]:
        """Return the generated tokens of each prompt. The end token is included if the model wrote it.

        For sampling, a sequence's random numbers depend only on the seed and on its prompt's name, not on the batch.
        Prompts that will have the same text are decoded once: those with the same ids and limit, and when sampled the
        same name. `advance` is called with the number of sequences that just ended.
        """
        keys, sequences = [], dict[tuple[str, int, tuple[int, ...]], _Sequence]()
        for prompt in prompts:
            key = prompt.name if decoding.temperature else "", prompt.max_new_tokens(decoding), tuple(prompt.ids)
            draws = random.Random(f"{decoding.seed}\x1f{prompt.name}")
            sequences.setdefault(key, _Sequence(len(sequences), prompt.ids, draws, prompt.max_new_tokens(decoding)))
            keys.append(key)
        advance(len(prompts) - len(sequences))
        written = _Scheduler(self, list(sequences.values()), decoding).run(advance) if sequences else []
        give_back_freed_memory()
        return [written[sequences[key].number] for key in keys]

    def forward(
        self, ids: list[int], positions: list[int], packed: PackedSequences, keep: Sequence[int] | None = None
    ) -> Tensor:
        """Return logits (kept positions, vocabulary) for one packed row. `keep` lists the positions; None keeps all."""
        options = {} if keep is None else {"logits_to_keep": torch.tensor(keep, device=self.device)}
        logits: Tensor = self.model(
            input_ids=torch.tensor([ids], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            packed=packed,
            use_cache=False,
            **options,
        ).logits
        return logits[0]

    def prefill(
        self,
        rows: Sequence[Sequence[int]],
        cache: SlotCache | None = None,
        first_slot: int = 0,
        begun: Sequence[int] = (),
    ) -> Tensor:
        """Return the next token's logits (rows, vocabulary) after each row.

        A row follows the first `begun` tokens of its slot, if that is given.
        """
        packed = PackedSequences([len(row) for row in rows], cache, first_slot, begun)
        ids = [token for row in rows for token in row]
        positions = [start + offset for start, length in packed.spans for offset in range(length)]
        ends = (torch.tensor(packed.lengths).cumsum(0) - 1).tolist()
        return self.forward(ids, positions, packed, ends)


class _Scheduler:
    """One call of `Decoder.generate`: the waiting sequences, the running ones (sequence i in slot i), and the cache."""

    def __init__(self, decoder: Decoder, sequences: list[_Sequence], decoding: Decoding) -> None:
        self.decoder, self.decoding = decoder, decoding
        self.answers: list[list[int]] = [[] for _ in sequences]
        self.waiting = _ordered(sequences)  # popped from the end
        self.running: list[_Sequence] = []
        self.longest = max(len(sequence.prompt) + sequence.cap for sequence in sequences)
        slots, shape = min(decoder.slots, len(sequences)), shape_of(decoder.model.config.to_dict())
        if decoder.memory is not None and shape:
            each = cache_bytes(shape, decoder.model.dtype.itemsize, 1, self.longest)
            slots = max(1, min(slots, decoder.memory // each))
        self._allocate(slots)

    def _allocate(self, slots: int) -> None:
        self.cache = SlotCache(slots, self.longest)
        self.slot_ids: list[list[int]] = [[] for _ in range(slots)]  # ids whose keys and values are in each slot
        self.sampler = Sampler(self.decoding, slots, self.decoder.device)

    def run(self, advance: Advance) -> list[list[int]]:
        """Decode until every sequence has ended. Raises torch.OutOfMemoryError if not even one slot fits."""
        while self.waiting or self.running:
            try:
                if self.waiting and len(self.running) < self.cache.slots:
                    self._prefill()
                else:
                    self._step()
            except torch.OutOfMemoryError:
                if self.cache.slots == 1:
                    raise
                log.warning("generate  out of memory with %d slots; going on with half of them", self.cache.slots)
                self.waiting += reversed(self.running)
                self.running = []
                self._allocate(self.cache.slots // 2)
                if self.decoder.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            if ended := self._free_ended():
                advance(ended)
        return self.answers

    def _prefill(self) -> None:
        """Prefill up to `PREFILL_TOKENS` of waiting sequences into free slots, and choose the next token of each.

        A prompt that shares a long beginning with one chosen in this call waits, so that the next call can copy it.
        """
        first, tokens, chosen = len(self.running), 0, list[tuple[_Sequence, int, int]]()
        for sequence in self.waiting[: first - self.cache.slots - 1 : -1]:
            copied, source = max((_shared(sequence.ids, ids), slot) for slot, ids in enumerate(self.slot_ids))
            if any(_shared(sequence.ids, other.ids) >= copied + SHARED_TOKENS for other, _, _ in chosen):
                continue
            tokens += len(sequence.ids) - copied
            if chosen and tokens > PREFILL_TOKENS:
                break
            chosen.append((sequence, copied, source))
        chosen.sort(key=lambda choice: choice[1] - len(choice[0].ids))  # similar lengths are attended to together
        started, begun, sources = map(list, zip(*chosen, strict=True))
        self.cache.copy(sources, first, max(begun))
        computed = [sequence.ids[copied:] for sequence, copied, _ in chosen]
        logits = self.decoder.prefill(computed, self.cache, first, begun)
        numbers = {sequence.number for sequence in started}
        self.waiting = [sequence for sequence in self.waiting if sequence.number not in numbers]
        self.running += started
        for slot, sequence in enumerate(started, first):
            self.slot_ids[slot] = sequence.ids
            self.sampler.see(slot, sequence.ids, logits.shape[-1])
        self._append(started, logits, first)

    def _step(self) -> None:
        """Decode one token for every running sequence."""
        positions = [sequence.position for sequence in self.running]
        packed = PackedSequences.decoding(self.cache, positions, self.decoder.device)
        newest = [sequence.new_ids[-1] for sequence in self.running]
        self._append(self.running, self.decoder.forward(newest, positions, packed), 0)

    def _append(self, sequences: Sequence[_Sequence], logits: Tensor, first_slot: int) -> None:
        draws = [sequence.draw() for sequence in sequences] if self.decoding.temperature else []
        for sequence, token in zip(sequences, self.sampler.sample(logits, draws, first_slot), strict=True):
            sequence.new_ids.append(token)

    def _free_ended(self) -> int:
        """Remove the sequences that have ended from their slots, and return how many."""
        ended = 0
        for slot in range(len(self.running) - 1, -1, -1):
            sequence = self.running[slot]
            if sequence.new_ids[-1] not in self.decoder.ends and len(sequence.new_ids) < sequence.cap:
                continue
            self.answers[sequence.number] = sequence.new_ids
            last = self.running.pop()
            if last is not sequence:  # the last running sequence fills the gap
                self.cache.copy([len(self.running)], slot, last.position)
                self.slot_ids[slot] = self.slot_ids[len(self.running)]
                self.sampler.move(len(self.running), slot)
                self.running[slot] = last
            ended += 1
        return ended


def _shared(ids: list[int], other_ids: list[int]) -> int:
    """Return how many of `ids` can be copied from `other_ids`; 0 if fewer than SHARED_TOKENS are the same."""
    low, high = 0, min(len(ids), len(other_ids))
    if high < SHARED_TOKENS or ids[:SHARED_TOKENS] != other_ids[:SHARED_TOKENS]:
        return 0
    while low < high:  # comparing slices is much faster than comparing tokens one by one
        middle = (low + high + 1) // 2
        low, high = (middle, high) if ids[low:middle] == other_ids[low:middle] else (low, middle - 1)
    return max(0, min(low, len(ids) - OWN_TOKENS))


def _ordered(sequences: list[_Sequence]) -> list[_Sequence]:
    """Sort by length, so that running out of memory shows at once; prompts that begin alike stay together.

    A beginning that all prompts share, such as a system prompt, makes no family.
    """
    families, last = list[list[_Sequence]](), list[int]()
    ordered = sorted(sequences, key=lambda row: row.prompt)
    least = SHARED_TOKENS + _shared(ordered[0].prompt, ordered[-1].prompt)
    for row in ordered:
        if not families or _shared(row.prompt, last) < least:
            families.append([])
        families[-1].append(row)
        last = row.prompt
    for family in families:
        family.sort(key=lambda row: (len(row.prompt), row.number))
    families.sort(key=lambda family: (len(family[-1].prompt), family[-1].number))
    return [row for family in families for row in family]


class Sampler:
    """Chooses next tokens. With a repetition penalty it also tracks the tokens of each slot."""

    def __init__(self, decoding: Decoding, slots: int, device: torch.device) -> None:
        self.decoding, self.slots, self.device = decoding, slots, device
        self.seen: Tensor | None = None  # (slots, vocabulary): tokens of prompt and response

    def see(self, slot: int, ids: list[int], vocabulary: int) -> None:
        if self.decoding.repetition_penalty == 1.0:
            return
        if self.seen is None:
            self.seen = torch.zeros(self.slots, vocabulary, dtype=torch.bool, device=self.device)
        self.seen[slot] = False
        self.seen[slot, ids] = True

    def move(self, source: int, target: int) -> None:
        if self.seen is not None:
            self.seen[target] = self.seen[source]

    def sample(self, logits: Tensor, draws: Sequence[float], first_slot: int) -> list[int]:
        """Return the next token of each row of `logits` (rows, vocabulary). Row i belongs to slot `first_slot + i`.

        `draws` holds a uniform number in [0, 1) per row; it is empty if the temperature is 0.
        """
        slots = slice(first_slot, first_slot + len(logits))
        if self.seen is not None:
            logits = logits.float()
            penalty = self.decoding.repetition_penalty
            lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(self.seen[slots], lowered, logits)
        if self.decoding.temperature == 0:
            chosen = likeliest(logits)
        else:
            numbers = torch.tensor(draws, device=logits.device)
            chosen = draw(logits.float() / self.decoding.temperature, self.decoding.top_p, numbers, self.decoding.top_k)
        if self.seen is not None:
            self.seen[slots].scatter_(1, chosen[:, None], True)
        return chosen.tolist()


def likeliest(logits: Tensor) -> Tensor:
    """Return the index of each row's largest logit, the first one in a tie, like `argmax`."""
    rows, vocabulary = logits.shape
    if vocabulary % BLOCK:
        return logits.argmax(-1)
    blocks = logits.view(rows, -1, BLOCK)
    best = blocks.amax(-1).argmax(-1)
    return best * BLOCK + blocks[torch.arange(rows, device=logits.device), best].argmax(-1)


def draw(logits: Tensor, top_p: float, draws: Tensor, top_k: int | None = None) -> Tensor:
    """Sample one token per row of `logits` (rows, vocabulary), from a uniform number in [0, 1) per row (`draws`).

    The nucleus is the smallest set of most likely tokens whose probabilities reach `top_p` (Holtzman et al., 2020); in
    a tie the lower token id comes first. With `top_k`, the nucleus is taken from the `top_k` most likely tokens after
    their probabilities are rescaled to sum to 1, as in vLLM and transformers. Tokens are picked by the inverse
    cumulative distribution.
    """
    probabilities = logits.softmax(-1)
    if top_p == 1.0 and top_k is None:  # all tokens, in the vocabulary's order
        tokens = torch.arange(logits.shape[-1], device=logits.device).expand_as(logits)
        return _pick(probabilities, tokens, torch.full_like(draws, logits.shape[-1], dtype=torch.long), draws)
    likely, tokens = probabilities.topk(min(max(LIKELIEST, (top_k or 0) + 1), logits.shape[-1]), sorted=False)
    tokens, order = tokens.sort(-1)  # a stable sort then keeps ties in the order of token ids
    ordered, by_probability = likely.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    sizes = _nucleus_sizes(ordered, top_p, top_k)
    picked = _pick(ordered, tokens.gather(-1, by_probability), sizes, draws)
    # a nucleus that reaches the last probability found may be incomplete: other tokens may have the same one
    beyond = ordered.gather(-1, sizes[:, None] - 1) == ordered[:, -1:]
    if ordered.shape[-1] < logits.shape[-1] and beyond.any():
        rows = beyond[:, 0].nonzero()[:, 0]
        ordered, tokens = probabilities[rows].sort(dim=-1, descending=True, stable=True)
        picked[rows] = _pick(ordered, tokens, _nucleus_sizes(ordered, top_p, top_k), draws[rows])
    return picked


def _nucleus_sizes(ordered: Tensor, top_p: float, top_k: int | None) -> Tensor:
    if top_k is not None:
        ordered = ordered[:, :top_k] / ordered[:, :top_k].sum(-1, keepdim=True)
    if top_p == 1.0:
        return torch.full_like(ordered[:, 0], ordered.shape[-1], dtype=torch.long)
    return (ordered.cumsum(-1) - ordered < top_p).sum(-1)


def _pick(ordered: Tensor, tokens: Tensor, sizes: Tensor, draws: Tensor) -> Tensor:
    reached, last = ordered.cumsum(-1), sizes[:, None] - 1
    picked = torch.searchsorted(reached, draws[:, None] * reached.gather(-1, last), right=True).minimum(last)
    return tokens.gather(-1, picked)[:, 0]
