"""Config classes for a backbone and its adapter."""

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
    """A causal language model and how it is prompted.

    `source` is a hub id or a local folder. `revision` is a commit, branch or tag on the hub (None: the default branch).
    `wheel` is a fallback for when the hub does not answer. `context_length` is in tokens. `untrained_thought` says how
    prompts end for the untrained backbone: "open" if it reasons by itself, "absent" if it does not know think
    delimiters. `system_prompt` is used for every prompt without its own; None and "" mean none. `identity` is the
    system prompt for methods and protocols that tell a backbone who it is (R1-Act's, AltTrain's). `published` marks
    weights that a method's authors trained.

    `attention` is the attention kernel for training; generation always uses the packed one. `quantization` is how
    bitsandbytes quantises the frozen weights. `shape` gives the dimensions for memory estimates without a config.json.
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
    """Low-rank adapters (Hu et al., 2021) on the projections in `target_modules`, scaled by `alpha / rank`.

    `layers_from` is the fraction of layers, from the bottom, without adapters: 0 adapts all layers, 0.5 the upper half.
    """

    rank: Annotated[int, Gt(0)]
    alpha: Annotated[float, Gt(0), Lt(inf)]
    target_modules: Sequence[str]
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    layers_from: Annotated[float, Ge(0), Lt(1)] = 0.0


@dataclass(frozen=True)
class FullFineTuning:
    """No adapter: all weights are trained, and the whole model is saved in bfloat16.

    `weights` "float32" keeps float32 weights, and multiplies in bfloat16 on devices that do this natively. On these
    devices "bfloat16" also keeps weights, gradients and moments in bfloat16, which takes half the memory.
    """

    weights: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class NoAdapter:
    """No adapter, for runs without training."""
