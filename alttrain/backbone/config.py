"""Config classes for a backbone and its adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from alttrain.backbone.memory import Attention, Quantization, Shape, Strategy, training_bytes
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
    weights that a method's authors trained. `quantization` is how bitsandbytes quantises the frozen weights.
    `attention` is the kernel for training; generation always uses the packed one. `shape` is for memory estimates
    without a config.json.
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


class Trainable:
    """What is trained of a backbone; by default nothing.

    - `trains`    whether anything is
    - `folder`    the run's folder of the trained weights
    - `freezes`   whether the backbone's own weights stay as they are
    - `sharding`  the strategy that shards a training over several devices
    """

    trains: ClassVar[bool] = False
    folder: ClassVar[str] = "adapter"
    freezes: ClassVar[bool] = True
    sharding: ClassVar[Strategy] = "fsdp"

    def __str__(self) -> str:
        return ""

    def precision(self, trainer: str) -> str:
        """Return the dtype of the loaded backbone, given the trainer's."""
        return trainer

    def attach(self, model: Any, seed: int) -> Any:
        """Return the loaded backbone with what is trained, and nothing else, requiring gradients."""
        return model

    def memory(self, shape: Shape, width: int, lengths: Sequence[int], *step: Any, **how: Any) -> dict[str, int]:
        """Return the bytes of a training step by part. `step` and `how` are arguments of `training_bytes`."""
        return {}


@dataclass(frozen=True)
class LoRA(Trainable):
    """Low-rank adapters (Hu et al., 2021) on the projections in `target_modules`, scaled by `alpha / rank`.

    `layers_from` is the fraction of layers, from the bottom, without adapters: 0 adapts all layers, 0.5 the upper half.
    """

    rank: Annotated[int, Gt(0)]
    alpha: Annotated[float, Gt(0), Lt(inf)]
    target_modules: Sequence[str]
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    layers_from: Annotated[float, Ge(0), Lt(1)] = 0.0

    trains: ClassVar[bool] = True

    def __str__(self) -> str:
        targets = ",".join(name.removesuffix("_proj") for name in self.target_modules)
        upper = f" from layer share {self.layers_from:g}" if self.layers_from else ""
        return f"LoRA r{self.rank} a{self.alpha:g} dropout {self.dropout:g} on {targets}{upper}"

    def attach(self, model: Any, seed: int) -> Any:
        from alttrain.backbone.weights import add_lora

        return add_lora(model, self, seed)

    def memory(self, shape: Shape, width: int, lengths: Sequence[int], *step: Any, **how: Any) -> dict[str, int]:
        how["dropout"] = self.dropout > 0
        return training_bytes(shape, width, self.rank, self.target_modules, lengths, *step, **how)


@dataclass(frozen=True)
class FullFineTuning(Trainable):
    """No adapter: all weights are trained, and the whole model is saved in bfloat16.

    `weights` "float32" keeps float32 weights, and multiplies in bfloat16 on devices that do this natively. On these
    devices "bfloat16" also keeps weights, gradients and moments in bfloat16, which takes half the memory.
    """

    weights: Literal["float32", "bfloat16"] = "float32"

    trains: ClassVar[bool] = True
    folder: ClassVar[str] = "model"
    freezes: ClassVar[bool] = False
    sharding: ClassVar[Strategy] = "deepspeed_stage_3"

    def __str__(self) -> str:
        return "all weights"

    def precision(self, trainer: str) -> str:
        return trainer if self.weights == "bfloat16" else "float32"

    def attach(self, model: Any, seed: int) -> Any:
        return model.requires_grad_(True)

    def memory(self, shape: Shape, width: int, lengths: Sequence[int], *step: Any, **how: Any) -> dict[str, int]:
        how["kept"] = width if self.weights == "bfloat16" else 4
        return training_bytes(shape, width, 0, (), lengths, *step, **how)


@dataclass(frozen=True)
class NoAdapter(Trainable):
    """No adapter, for runs without training."""
