"""Weights, adapters, tokenizers, chat templates and attention. Only this package uses AutoModel and peft.

The config classes (`Backbone`, `Shape`, `Wheel`, `ChatTemplate`, `LoRA`, ...) import no torch. Neither do `memory` and
`device`, which tell whether a stage fits. `weights`, `support`, `attention` and `fused` do.
"""

from alttrain.backbone.config import Backbone, FullFineTuning, LoRA, NoAdapter
from alttrain.backbone.memory import Shape
from alttrain.backbone.source import Weights, Wheel, resolve
from alttrain.backbone.template import ChatTemplate, Rendered, ThoughtMode
