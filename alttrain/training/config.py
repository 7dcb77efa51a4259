"""What a config says of training: the recipe, and the hardware it runs on."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from alttrain.backbone.template import ThoughtMode


@dataclass(frozen=True)
class SupervisedFineTuning:
    """AdamW with linear warm-up and a cosine to zero; the loss is the mean over a batch's response tokens.

    `batch_size` is in examples, `max_length` in tokens (longer examples are left out by name), `warmup_steps` in
    optimizer steps, `checkpoint_every` in steps between checkpoints to resume from. `b_ratio` is how many times faster
    LoRA's B learns than its A (LoRA+, Hayou et al., 2024); 1 is plain LoRA.
    """

    name: str
    epochs: Annotated[int, Gt(0)]
    learning_rate: Annotated[float, Gt(0), Lt(inf)]
    batch_size: Annotated[int, Gt(0)]
    warmup_steps: Annotated[int, Ge(0)]
    max_length: Annotated[int, Gt(0)]
    weight_decay: Annotated[float, Ge(0), Lt(inf)] = 0.0
    betas: Annotated[Sequence[Annotated[float, Ge(0), Lt(1)]], MinLen(2), MaxLen(2)] = (0.9, 0.95)
    gradient_clip: Annotated[float, Gt(0), Lt(inf)] = 1.0
    b_ratio: Annotated[float, Gt(0), Lt(inf)] = 1.0
    checkpoint_every: Annotated[int, Gt(0)] = 50
    thought: ThoughtMode = "open"

    trains = True


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

    `compiled` compiles each layer for training ("auto": on CUDA, where it is worth its minute; "on" needs a GPU),
    `recompute` computes a layer's activations anew in the backward pass: a third more work, and memory for rows several
    times as long.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    devices: Annotated[int, Gt(0)] = 1
    nodes: Annotated[int, Gt(0)] = 1
    strategy: Literal["ddp", "fsdp", "deepspeed_stage_2", "deepspeed_stage_3"] = "ddp"
    examples_per_pass: Annotated[int, Gt(0)] | None = None
    compiled: Literal["auto", "on", "off"] = "auto"
    recompute: bool = False
    threads: Annotated[int, Gt(0), Le(1024)] | None = None
    log_every: Annotated[int, Gt(0)] = 10
