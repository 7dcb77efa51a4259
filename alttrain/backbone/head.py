"""The language-model head and cross-entropy in one, a chunk of positions at a time.

The logits of a batch over a vocabulary of 50,000 to 150,000 are the largest tensor of a training step. Here they exist
for `CHUNK` positions only; their gradient with respect to the hidden state is taken at once, while they are at hand, so
backward has nothing left to do but scale it. The head itself is frozen.
"""

from typing import Any

import torch

CHUNK = 128
"""Positions whose logits exist at one time."""


class _ResponseLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden, dtype=weight.dtype)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            logits = torch.mm(hidden[part].to(weight.dtype), weight.t()).float()
            rows = torch.arange(len(logits), device=logits.device)
            normaliser = logits.logsumexp(-1, keepdim=True)
            total += (normaliser[:, 0] - logits[rows, targets[part]]).sum()
            probabilities = logits.sub_(normaliser).exp_()
            probabilities[rows, targets[part]] -= 1
            torch.mm(probabilities.to(weight.dtype), weight, out=gradient[part])
        ctx.save_for_backward(gradient.to(hidden.dtype).div_(len(targets)))
        return total / len(targets)

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None


def response_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of `targets` (n,) under `hidden` (n, size) and the head's `weight` (vocabulary, size).

    The loss is float32 whatever the weights are. `weight` gets no gradient.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        loss: torch.Tensor = _ResponseLoss.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return loss
