"""Linear weights a second time, in the order in which oneDNN's matrix products on a CPU want them.

A product of bfloat16 matrices reorders its weight at each call. That is little beside the product of a prefill or of a
training step, and a fifth of a decode step, which has a row for each slot. The numbers are the same (compared bit by
bit on AVX512-BF16), and what is packed does not depend on the memory that happens to be free.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from alttrain.backbone.device import cpu_has_bfloat16
from alttrain.backbone.memory import MOST_PACKED

ROWS = 64
"""Rows that a product is expected to have; any number may come."""


class PackedWeights:
    """The weights of a model's plain linear layers, packed when they are used first and again when they have changed.

    They stay as long as this object, and take `size` bytes then. A model of other numbers than bfloat16, on another
    device, or larger than `most` bytes has none, and neither has one on a CPU without such products.
    """

    def __init__(self, model: torch.nn.Module, most: int = MOST_PACKED) -> None:
        layers = [module for module in model.modules() if type(module) is torch.nn.Linear and _plain(module)]
        size = sum(layer.weight.nbytes for layer in layers)
        self._layers = layers if size <= most and _has_products() else []
        self.size = size if self._layers else 0
        self._packed: dict[torch.nn.Linear, tuple[int, torch.Tensor]] = {}

    @contextmanager
    def used(self) -> Iterator[None]:
        """The layers multiply by their packed weights meanwhile."""
        try:
            for layer in self._layers:
                layer.forward = partial(_product, weight=self._of(layer), bias=layer.bias)  # type: ignore[method-assign]
            yield
        finally:
            for layer in self._layers:
                layer.__dict__.pop("forward", None)

    def _of(self, layer: torch.nn.Linear) -> torch.Tensor:
        version, packed = self._packed.get(layer, (None, None))
        if packed is None or version != layer.weight._version:  # another adapter was merged into it
            self._packed.pop(layer, None)
            packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
            self._packed[layer] = layer.weight._version, packed
        return packed


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _plain(layer: torch.nn.Linear) -> bool:
    own = "forward" in layer.__dict__  # somebody else's, which would be lost
    return layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu" and not own


def _has_products() -> bool:
    """Whether the CPU multiplies bfloat16 natively, and this torch has oneDNN's products, as inductor uses them."""
    has = hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has and cpu_has_bfloat16() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
