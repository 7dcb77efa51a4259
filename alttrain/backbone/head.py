"""The language-model head and cross-entropy in one, a chunk of positions at a time.

The logits of a batch over a vocabulary of 50,000 to 150,000 are the largest tensor of a training step. Here they exist
for `CHUNK` positions only; their gradient with respect to the hidden state, and to the head where it is trained, is
taken at once, while they are at hand, so backward has nothing left to do but scale it.
"""

from typing import Any

import torch

CHUNK = 320
"""Positions whose logits exist at one time."""
BLOCK = 16
"""Of these, positions whose probabilities exist at one time on a CPU, where they are to stay in its cache."""


class _ResponseLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, relative: torch.Tensor | None
    ) -> torch.Tensor:
        count = len(targets)
        block = BLOCK if hidden.device.type == "cpu" else CHUNK
        losses = hidden.new_empty(count, dtype=torch.float32)
        gradient = torch.empty_like(hidden, dtype=weight.dtype)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        # two buffers for all chunks: fresh ones of this size are fresh pages each time
        low = hidden.new_empty((min(CHUNK, count), len(weight)), dtype=weight.dtype)
        full = torch.empty_like(low[:block], dtype=torch.float32)
        for start in range(0, count, CHUNK):
            part = slice(start, start + CHUNK)
            chunk = hidden[part].to(weight.dtype)
            logits = low[: len(chunk)]
            torch.mm(chunk, weight.t(), out=logits)
            for few in (slice(first, first + block) for first in range(0, len(chunk), block)):
                due = targets[part][few]
                _errors(logits[few], full[: len(due)], due, losses[part][few])
            if relative is not None:
                logits.mul_(relative[part, None])
            torch.mm(logits, weight, out=gradient[part])
            if weight_gradient is not None:
                weight_gradient += logits.t() @ chunk
        ctx.save_for_backward(gradient.to(hidden.dtype).div_(count), weight_gradient)
        ctx.count, ctx.weight_dtype = count, weight.dtype
        if relative is not None:
            losses.mul_(relative)
        return losses.sum() / count

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        gradient, weight_gradient = ctx.saved_tensors
        if weight_gradient is not None:
            weight_gradient = (weight_gradient * (scale / ctx.count)).to(ctx.weight_dtype)
        return gradient * scale.to(gradient.dtype), weight_gradient, None, None


def _errors(logits: torch.Tensor, shifted: torch.Tensor, targets: torch.Tensor, losses: torch.Tensor) -> None:
    """Fill in the losses (n,), and put the gradients of their sum in place of the logits (n, vocabulary).

    `shifted` is room for as many numbers in float32.
    """
    rows = torch.arange(len(targets), device=targets.device)
    shifted.copy_(logits).sub_(shifted.amax(-1, keepdim=True))
    right = shifted[rows, targets]
    masses = shifted.exp_().sum(-1, keepdim=True)
    torch.sub(masses[:, 0].log(), right, out=losses)
    probabilities = shifted.mul_(masses.reciprocal_())
    probabilities[rows, targets] -= 1
    logits.copy_(probabilities)


def response_loss(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, relative: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy in nats of `targets` (n,) under `hidden` (n, size) and the head's `weight` (vocabulary, size).

    `relative` (n,), of mean 1, is how much each target counts. The loss is float32 whatever the weights are; the
    products are in the weights' dtype.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        loss: torch.Tensor = _ResponseLoss.apply(hidden, weight, targets, relative)  # type: ignore[no-untyped-call]
    return loss
