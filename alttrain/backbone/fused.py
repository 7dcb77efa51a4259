"""Fused operations for training: the LoRA layer, and the language-model head with its cross-entropy.

`fuse` makes one operation of the casts, products, scaling and addition in peft's linear layers, whose names and files
stay. Products use the weight's dtype; adapters and their gradients stay in float32.

`response_loss` has the logits of `CHUNK` positions at a time, because a whole batch's logits are the largest tensor of
a training step. Gradients are computed in the forward pass, while the logits exist.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor

from alttrain.backbone.memory import CHUNK

BLOCK = 16  # positions whose probabilities are in memory at once on a CPU, so that they stay in its cache


class _LoRAProduct(torch.autograd.Function):
    """x W' + b + scale (x A') B' for x (..., in), W (out, in), A (rank, in), B (out, rank). W and b are frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any, down: Tensor, up: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        down, up = down.to(weight.dtype), up.to(weight.dtype)
        inner = rows @ down.t()
        out = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        out.addmm_(inner, up.t(), alpha=scale)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, weight, down, up = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        inner_gradient = (flat @ up).mul_(ctx.scale)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (flat @ weight).addmm_(inner_gradient, down).view(*gradient.shape[:-1], -1)
        down_gradient = (inner_gradient.t() @ rows).float()
        up_gradient = (flat.t() @ inner).float().mul_(ctx.scale)
        return x_gradient, None, None, down_gradient, up_gradient, None


class FusedLinear(Linear):  # type: ignore[misc]
    """peft's linear LoRA layer with the fused forward pass; a class, so that all layers share their compiled code."""

    def forward(self, x: Tensor, *unused: Any, **options: Any) -> Tensor:
        """x (..., in) -> (..., out)."""
        base, name = self.get_base_layer(), self.active_adapters[0]
        down, up, scale = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        out: Tensor = _LoRAProduct.apply(x, base.weight, base.bias, down, up, scale)  # type: ignore[no-untyped-call]
        return out


def fuse(model: Any) -> None:
    """Use the fused forward pass in a new peft model's LoRA layers that have no dropout and an unquantised weight."""
    for module in model.modules():
        plain = type(module) is Linear and type(module.get_base_layer()) is torch.nn.Linear
        if plain and all(isinstance(dropout, torch.nn.Identity) for dropout in module.lora_dropout.values()):
            module.__class__ = FusedLinear


class _ResponseLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor | None) -> Tensor:
        count = len(targets)
        block = BLOCK if hidden.device.type == "cpu" else CHUNK
        losses = hidden.new_empty(count, dtype=torch.float32)
        gradient = torch.empty_like(hidden, dtype=weight.dtype)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        # two buffers for all chunks: allocating this size again would map new pages each time
        low = hidden.new_empty((min(CHUNK, count), len(weight)), dtype=weight.dtype)
        full = torch.empty_like(low[:block], dtype=torch.float32)
        for start in range(0, count, CHUNK):
            part = slice(start, start + CHUNK)
            chunk = hidden[part].to(weight.dtype)
            logits = low[: len(chunk)]
            torch.mm(chunk, weight.t(), out=logits)
            for rows in (slice(first, first + block) for first in range(0, len(chunk), block)):
                block_targets = targets[part][rows]
                _errors(logits[rows], full[: len(block_targets)], block_targets, losses[part][rows])
            if token_weights is not None:
                logits.mul_(token_weights[part, None])
            torch.mm(logits, weight, out=gradient[part])
            if weight_gradient is not None:
                weight_gradient += logits.t() @ chunk
        ctx.save_for_backward(gradient.to(hidden.dtype).div_(count), weight_gradient)
        ctx.count, ctx.weight_dtype = count, weight.dtype
        if token_weights is not None:
            losses.mul_(token_weights)
        return losses.sum() / count

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        gradient, weight_gradient = ctx.saved_tensors
        if weight_gradient is not None:
            weight_gradient = (weight_gradient * (scale / ctx.count)).to(ctx.weight_dtype)
        return gradient * scale.to(gradient.dtype), weight_gradient, None, None


def _errors(logits: Tensor, shifted: Tensor, targets: Tensor, losses: Tensor) -> None:
    """Write the losses (n,), and replace the logits (n, vocabulary) by the gradient of their summed loss.

    `shifted` is a float32 buffer with the shape of `logits`.
    """
    rows = torch.arange(len(targets), device=targets.device)
    shifted.copy_(logits).sub_(shifted.amax(-1, keepdim=True))
    target_logits = shifted[rows, targets]
    sums = shifted.exp_().sum(-1, keepdim=True)
    torch.sub(sums[:, 0].log(), target_logits, out=losses)
    probabilities = shifted.mul_(sums.reciprocal_())
    probabilities[rows, targets] -= 1
    logits.copy_(probabilities)


def response_loss(hidden: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of `targets` (n,) in nats.

    `hidden` is (n, size) and the head's `weight` (vocabulary, size). `token_weights` (n,) must have mean 1. The loss is
    float32; products use the dtype of `weight`.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _ResponseLoss.apply(hidden, weight, targets, token_weights)  # type: ignore[no-untyped-call]
    return loss
