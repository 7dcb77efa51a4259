"""Decoder layers as compiled programs, which all layers of a kind share."""

from typing import Any

import torch

MOST_PROGRAMS = 64
"""Programs that a layer's code may become, one for each length of row."""


def compile_layers(language_model: Any, dynamic: bool) -> None:
    """Compile every decoder layer in place: with `dynamic` for any length of row, else anew for each."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_PROGRAMS)
    for layer in language_model.get_decoder().layers:
        layer.compile(dynamic=dynamic)
