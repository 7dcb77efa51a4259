"""What a config says of training: the recipe, and the hardware it runs on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from alttrain.backbone.memory import Strategy
from alttrain.backbone.template import ThoughtMode

Mean = Literal["tokens", "examples"]
"""What a step's loss is the mean over: its response tokens, or its examples, each the mean over its own tokens."""


@dataclass(frozen=True)
class ResponseLoss:
    """Cross-entropy of the response tokens. Over `tokens` a long response counts more than a short one."""

    mean_over: Mean = "tokens"


@dataclass(frozen=True)
class SafeKeyLoss:
    """SafeKey's losses (Zhou et al., 2025) beside the response's, in the last `last_epochs` epochs.

    `key_weight` is of the key sentence's loss, in a second pass that does not see the request. `head_weight` is of the
    safety heads' loss: two linear heads tell harmful from harmless requests, one by the understanding alone, which
    counts `theta` of the two, the other by the request and the understanding. Their weights are trained beside the
    model and are in the checkpoints; they are no part of the adapter or the model that is saved.
    """

    key_weight: Annotated[float, Ge(0), Lt(inf)]
    head_weight: Annotated[float, Ge(0), Lt(inf)]
    theta: Annotated[float, Ge(0), Le(1)]
    last_epochs: Annotated[int, Gt(0)]

    mean_over: ClassVar[Mean] = "examples"


@dataclass(frozen=True)
class SupervisedFineTuning:
    """AdamW with linear warm-up and a cosine to zero. A training takes `epochs` or `max_steps`, whichever is given.

    `batch_size` is in examples, `max_length` in tokens (longer examples are left out by name), `checkpoint_every` in
    steps between checkpoints to resume from. Warm-up is `warmup_steps`, or `warmup_share` of all steps, rounded up. The
    schedule "cosine" begins above zero; "cosine_from_zero" is transformers', whose first warm-up step changes nothing.
    `gradient_clip` None clips nothing. `b_ratio` is how many times faster LoRA's B learns than its A (LoRA+, Hayou et
    al., 2024); 1 is plain LoRA. From `batch_size_of` a recipe's file takes `batch_size`, by the backbone's name.
    """

    name: str
    epochs: Annotated[int, Gt(0)] | None
    learning_rate: Annotated[float, Gt(0), Lt(inf)]
    batch_size: Annotated[int, Gt(0)]
    warmup_steps: Annotated[int, Ge(0)] | None
    max_length: Annotated[int, Gt(0)]
    max_steps: Annotated[int, Gt(0)] | None = None
    warmup_share: Annotated[float, Ge(0), Lt(1)] | None = None
    batch_size_of: Mapping[str, Annotated[int, Gt(0)]] = field(default_factory=dict)
    schedule: Literal["cosine", "cosine_from_zero"] = "cosine"
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    weight_decay: Annotated[float, Ge(0), Lt(inf)] = 0.0
    betas: Annotated[Sequence[Annotated[float, Ge(0), Lt(1)]], MinLen(2), MaxLen(2)] = (0.9, 0.95)
    gradient_clip: Annotated[float, Gt(0), Lt(inf)] | None = 1.0
    b_ratio: Annotated[float, Gt(0), Lt(inf)] = 1.0
    checkpoint_every: Annotated[int, Gt(0)] = 50
    thought: ThoughtMode = "open"
    objective: ResponseLoss | SafeKeyLoss = ResponseLoss()

    trains = True

    def __post_init__(self) -> None:
        for one, other in (("epochs", "max_steps"), ("warmup_steps", "warmup_share")):
            given = {key: getattr(self, key) for key in (one, other)}
            if sum(value is not None for value in given.values()) != 1:
                raise ValueError(
                    f"training.{one}={given[one]} and training.{other}={given[other]}: give one of them, "
                    "and set the other to null"
                )
        if isinstance(self.objective, SafeKeyLoss) and self.epochs is None:
            raise ValueError("training.objective counts from the last epoch: give training.epochs, not max_steps")

    def steps_per_epoch(self, examples: int) -> int:
        """Batches in one epoch; the last may be smaller."""
        return -(-examples // self.batch_size)

    def steps(self, examples: int) -> int:
        """Optimizer steps of a training on so many examples."""
        return self.max_steps or (self.epochs or 0) * self.steps_per_epoch(examples)

    def warmup(self, steps: int) -> int:
        """Of so many steps, those of the warm-up; the last step is none of them."""
        asked = self.warmup_steps if self.warmup_share is None else ceil(steps * self.warmup_share)
        return min(asked or 0, steps - 1)


@dataclass(frozen=True)
class NoTraining:
    """The backbone as it is: the No-train baseline. `thought` is how its prompts end."""

    name: str
    thought: ThoughtMode

    trains = False


@dataclass(frozen=True)
class Hardware:
    """Where the models run. `threads` limits CPU threads; None leaves torch's choice.

    `devices` on each of `nodes` machines train together by `strategy`: "ddp" copies the backbone, "fsdp" shards it
    (adapters only), "deepspeed_*" is DeepSpeed's. The batch is the recipe's, shared out among them; where a device's
    share is more than `examples_per_pass` examples, they are passed one after another before the step.

    With `memory_gib` the memory of each device is known before there is one: a plan says what fits. A training that
    does not fit takes what it needs, in this order: activations computed anew, one example a pass, and up to
    `most_devices` devices that shard it.

    `compiled` compiles each layer for training ("auto": on CUDA, where it is worth its minute; "on" needs a GPU),
    `recompute` computes a layer's activations anew in the backward pass: a third more work, and memory for rows several
    times as long.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    devices: Annotated[int, Gt(0)] = 1
    nodes: Annotated[int, Gt(0)] = 1
    strategy: Strategy = "ddp"
    examples_per_pass: Annotated[int, Gt(0)] | None = None
    compiled: Literal["auto", "on", "off"] = "auto"
    recompute: bool = False
    threads: Annotated[int, Gt(0), Le(1024)] | None = None
    log_every: Annotated[int, Gt(0)] = 10
    memory_gib: Annotated[float, Gt(0)] | None = None
    most_devices: Annotated[int, Gt(0)] = 1
