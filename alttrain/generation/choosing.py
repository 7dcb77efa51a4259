"""A next token of each sequence from its logits: the likeliest, or drawn from the nucleus."""

from collections.abc import Sequence

import torch

from alttrain.generation.config import Decoding

BLOCK = 128
"""Of the vocabulary: two searches of short rows are faster than one of a long row."""
LIKELIEST = 128
"""Tokens among which the nucleus is looked for, before a whole vocabulary is sorted for a row."""


class Chooser:
    """Chooses each sequence's next token, and remembers what it holds where repetition is penalised."""

    def __init__(self, decoding: Decoding, slots: int, device: torch.device) -> None:
        self.decoding = decoding
        self.slots = slots
        self.device = device
        self.seen: torch.Tensor | None = None  # (slots, vocabulary): tokens that stand in prompt or response

    def see(self, slot: int, ids: list[int], vocabulary: int) -> None:
        """Note a new sequence's tokens, where repetition is penalised."""
        if self.decoding.repetition_penalty == 1.0:
            return
        if self.seen is None:
            self.seen = torch.zeros(self.slots, vocabulary, dtype=torch.bool, device=self.device)
        self.seen[slot] = False
        self.seen[slot, ids] = True

    def move(self, source: int, target: int) -> None:
        """A sequence changed its slot."""
        if self.seen is not None:
            self.seen[target] = self.seen[source]

    def resize(self, slots: int) -> None:
        """There are fewer slots now."""
        self.slots = slots
        if self.seen is not None:
            self.seen = self.seen[:slots].clone()

    def choose(self, logits: torch.Tensor, draws: Sequence[float], first_slot: int) -> list[int]:
        """The next token of each row of `logits` (rows, vocabulary); row i stands in slot `first_slot + i`.

        `draws` is a uniform number of [0, 1) for each, where tokens are drawn.
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


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The first of the largest of each row, as `argmax` has it."""
    rows, vocabulary = logits.shape
    if vocabulary % BLOCK:
        return logits.argmax(-1)
    blocks = logits.view(rows, -1, BLOCK)
    best = blocks.amax(-1).argmax(-1)
    return best * BLOCK + blocks[torch.arange(rows, device=logits.device), best].argmax(-1)


def draw(logits: torch.Tensor, top_p: float, draws: torch.Tensor, top_k: int | None = None) -> torch.Tensor:
    """A token of each row of `logits` (rows, vocabulary), by a uniform number of [0, 1) each.

    The nucleus is the fewest likeliest tokens whose probabilities reach `top_p` (Holtzman et al., 2020); of tokens that
    are as likely as each other the first come first. It is looked for among the `top_k` likeliest, whose probabilities
    then add up to 1, as in vLLM and transformers. The number picks in it by the inverse of the cumulative distribution.
    """
    probabilities = logits.softmax(-1)
    if top_p == 1.0 and top_k is None:  # all tokens, in any order: that of the vocabulary
        tokens = torch.arange(logits.shape[-1], device=logits.device).expand_as(logits)
        return _pick(probabilities, tokens, torch.full_like(draws, logits.shape[-1], dtype=torch.long), draws)
    ordered, tokens = _likeliest_first(probabilities, max(LIKELIEST, (top_k or 0) + 1))
    sizes = _nucleus_sizes(ordered, top_p, top_k)
    picked = _pick(ordered, tokens, sizes, draws)
    # the nucleus is whole where it ends before the last probability at hand: tokens that were left out may have that
    beyond = ordered.gather(-1, sizes[:, None] - 1) == ordered[:, -1:]
    if ordered.shape[-1] < logits.shape[-1] and beyond.any():
        rows = beyond[:, 0].nonzero()[:, 0]
        ordered, tokens = probabilities[rows].sort(dim=-1, descending=True, stable=True)
        picked[rows] = _pick(ordered, tokens, _nucleus_sizes(ordered, top_p, top_k), draws[rows])
    return picked


def _likeliest_first(probabilities: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `most` largest of each row in falling order, and their tokens, which rise where probabilities are equal."""
    found, tokens = probabilities.topk(min(most, probabilities.shape[-1]), sorted=False)
    tokens, order = tokens.sort(-1)
    ordered, again = found.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return ordered, tokens.gather(-1, again)


def _nucleus_sizes(ordered: torch.Tensor, top_p: float, top_k: int | None) -> torch.Tensor:
    if top_k is not None:
        ordered = ordered[:, :top_k] / ordered[:, :top_k].sum(-1, keepdim=True)
    if top_p == 1.0:
        return torch.full_like(ordered[:, 0], ordered.shape[-1], dtype=torch.long)
    return (ordered.cumsum(-1) - ordered < top_p).sum(-1)


def _pick(ordered: torch.Tensor, tokens: torch.Tensor, sizes: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """One of the first `sizes` tokens of each row, by their probabilities."""
    reached, last = ordered.cumsum(-1), sizes[:, None] - 1
    place = torch.searchsorted(reached, draws[:, None] * reached.gather(-1, last), right=True).minimum(last)
    return tokens.gather(-1, place)[:, 0]
