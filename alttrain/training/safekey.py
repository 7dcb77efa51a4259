"""SafeKey's safety heads (Zhou et al., 2025): two linear maps of the decoder's last hidden states that tell harm.

The biases of its public code are never trained; they are left out here.
"""

import torch
from torch.nn import functional

from alttrain.training.packing import MarkedBatch


class SafetyHeads(torch.nn.Module):
    """A head over the understanding alone, and one over the request and the understanding."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.alone = torch.nn.Linear(size, 1, bias=False)
        self.whole = torch.nn.Linear(size, 1, bias=False)

    def loss(self, hidden: torch.Tensor, marked: MarkedBatch, theta: float) -> torch.Tensor:
        """Binary cross-entropy in nats, the mean over the marked examples, by hidden states (tokens, size)."""
        parts = (
            (self.alone, theta, [(middle, end) for _, middle, end in marked.spans]),
            (self.whole, 1 - theta, [(start, end) for start, _, end in marked.spans]),
        )
        loss = hidden.new_zeros((), dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for head, share, spans in parts:
                means = torch.stack([hidden[start:end].float().mean(0) for start, end in spans])
                told = head(means)[:, 0]
                loss = loss + share * functional.binary_cross_entropy_with_logits(told, marked.harmful)
        return loss
