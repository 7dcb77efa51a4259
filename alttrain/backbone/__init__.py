"""The only room that knows AutoModel and peft: weights, adapters, tokenizers, chat templates, think delimiters.

What a config names (`Backbone`, `Wheel`, `ChatTemplate`, `LoRA`, `NoAdapter`) is light: torch and transformers
load only when weights or a tokenizer are asked for, in `weights`, `attention`, `head` and `lora`.
"""

from alttrain.backbone.config import Backbone, LoRA, NoAdapter
from alttrain.backbone.source import Weights, Wheel, resolve
from alttrain.backbone.template import ChatTemplate, ThoughtMode

__all__ = ["Backbone", "ChatTemplate", "LoRA", "NoAdapter", "ThoughtMode", "Weights", "Wheel", "resolve"]
