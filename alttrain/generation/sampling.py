"""Choose the next token of each sequence from its logits, greedily or by nucleus sampling."""

from collections.abc import Sequence

import torch
from torch import Tensor

from alttrain.generation.engine import Decoding

BLOCK = 128  # tokens of the vocabulary; two searches over short rows are faster than one over a long row
LIKELIEST = 128  # tokens searched for the nucleus before the whole vocabulary of a row is sorted


class Sampler:
    """Chooses next tokens. With a repetition penalty it also tracks the tokens of each slot."""

    def __init__(self, decoding: Decoding, slots: int, device: torch.device) -> None:
        self.decoding, self.slots, self.device = decoding, slots, device
        self.seen: Tensor | None = None  # (slots, vocabulary): tokens of prompt and response

    def see(self, slot: int, ids: list[int], vocabulary: int) -> None:
        """Register the tokens of a new sequence."""
        if self.decoding.repetition_penalty == 1.0:
            return
        if self.seen is None:
            self.seen = torch.zeros(self.slots, vocabulary, dtype=torch.bool, device=self.device)
        self.seen[slot] = False
        self.seen[slot, ids] = True

    def move(self, source: int, target: int) -> None:
        """Move a sequence from slot `source` to slot `target`."""
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
    found, tokens = probabilities.topk(min(max(LIKELIEST, (top_k or 0) + 1), logits.shape[-1]), sorted=False)
    tokens, order = tokens.sort(-1)  # a stable sort then keeps ties in the order of token ids
    ordered, again = found.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    sizes = _nucleus_sizes(ordered, top_p, top_k)
    picked = _pick(ordered, tokens.gather(-1, again), sizes, draws)
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
    place = torch.searchsorted(reached, draws[:, None] * reached.gather(-1, last), right=True).minimum(last)
    return tokens.gather(-1, place)[:, 0]
