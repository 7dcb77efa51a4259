"""What a config says of a backbone and its adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from alttrain.backbone.memory import Attention, Quantization, Shape
from alttrain.backbone.source import Wheel
from alttrain.backbone.template import ChatTemplate, ThoughtMode

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Backbone:
    """A causal language model and how to talk to it.

    `source` is a hub id or a local folder, `revision` a commit, branch or tag on the hub (None: the newest), `wheel` a
    second source for when the hub does not answer. `context_length` is in tokens. `untrained_thought` is how the prompt
    ends for the untrained backbone: "open" for one that reasons by itself, "absent" for one that does not know think
    delimiters. `system_prompt` is in every prompt that has none of its own; None and "" are none. `identity` is the
    system prompt of methods and protocols that tell a backbone who it is (R1-Act's, AltTrain's). `published` weights
    are those that a method's authors trained.

    `attention` is the kernel of training; generation always decodes with the packed one. `quantization` is how
    bitsandbytes shrinks the frozen weights, `shape` the dimensions for memory estimates without a config.json.
    """

    name: str
    source: str
    template: ChatTemplate
    context_length: Annotated[int, Gt(0)]
    untrained_thought: ThoughtMode = "open"
    system_prompt: str | None = None
    identity: str | None = None
    published: bool = False
    revision: str | None = None
    wheel: Wheel | None = None
    dtype: Dtype = "auto"
    quantization: Quantization = "none"
    attention: Attention = "packed"
    shape: Shape | None = None


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters (Hu et al., 2021) on the named projections, scaled by `alpha / rank`.

    Layers below the share `layers_from` of the depth get none: 0 adapts all, 0.5 the upper half.
    """

    rank: Annotated[int, Gt(0)]
    alpha: Annotated[float, Gt(0), Lt(inf)]
    target_modules: Sequence[str]
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    layers_from: Annotated[float, Ge(0), Lt(1)] = 0.0


@dataclass(frozen=True)
class FullFineTuning:
    """No adapter: all weights are trained, and the trained model is saved whole, in bfloat16.

    `weights` "float32" keeps them so, with products in bfloat16 where the device does these well; "bfloat16" keeps
    weights, gradients and moments in it there, which takes half the memory.
    """

    weights: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class NoAdapter:
    """No adapter: for runs that train nothing."""
