"""The only room that knows AutoModel and peft: weights, adapters, tokenizers, chat templates, think delimiters.

What a config names (`Backbone`, `Shape`, `Wheel`, `ChatTemplate`, `LoRA`, ...) is light, and so are `memory`
and `device`, which tell whether a stage fits; torch and transformers load only when weights or a tokenizer are asked
for, in `weights`, `attention`, `head` and `lora`.
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
