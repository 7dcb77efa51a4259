"""Weights, adapters, tokenizers, chat templates and attention: the only package that uses AutoModel and peft.

What a config names (`Backbone`, `Shape`, `Wheel`, `ChatTemplate`, `LoRA`, ...) loads no torch, and neither do `memory`
and `device`, which tell whether a stage fits. `weights`, `adapter`, `attention` and `fused` do.
"""

from alttrain.backbone.config import Backbone, FullFineTuning, LoRA, NoAdapter
from alttrain.backbone.memory import Shape
from alttrain.backbone.source import Weights, Wheel, resolve
from alttrain.backbone.template import ChatTemplate, Rendered, ThoughtMode

__all__ = [
    "Backbone",
    "ChatTemplate",
    "FullFineTuning",
    "LoRA",
    "NoAdapter",
    "Rendered",
    "Shape",
    "ThoughtMode",
    "Weights",
    "Wheel",
    "resolve",
]
