"""The LoRA product as one operation, in place of peft's chain of casts, products, scaling and addition.

peft keeps its layers, names and files; only the forward of its linear layers is another, where it does the plain
thing: one adapter, no dropout, an unquantised frozen weight. Products run in the weight's dtype, adapters and
their gradients stay in float32.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear


class _LoRAProduct(torch.autograd.Function):
    """x W' + b + scale (x A') B' for x (..., in), W (out, in), A (rank, in), B (out, rank). W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        down, up = down.to(weight.dtype), up.to(weight.dtype)
        inner = rows @ down.t()
        out = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        out.addmm_(inner, up.t(), alpha=scale)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
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
    """peft's linear LoRA layer with the fused forward. A class, not a method of each layer: compiled code then serves
    all layers of a kind.
    """

    def forward(self, x: torch.Tensor, *unused: Any, **options: Any) -> torch.Tensor:
        """x (..., in) -> (..., out)."""
        name = self.active_adapters[0]
        base = self.get_base_layer()
        out: torch.Tensor = _LoRAProduct.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        )
        return out


def fuse(model: torch.nn.Module) -> int:
    """Give every plain LoRA layer of a peft model the fused forward. Returns how many got it."""
    fused = [module for module in model.modules() if type(module) is Linear and _plain(module)]
    for module in fused:
        module.__class__ = FusedLinear
    return len(fused)


def _plain(layer: Any) -> bool:
    name = layer.active_adapters[0]
    return (
        len(layer.active_adapters) == 1
        and type(layer.get_base_layer()) is torch.nn.Linear
        and not layer.merged
        and not layer.use_dora[name]
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
    )
