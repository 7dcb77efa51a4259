"""Helpers for the tiny backbone that several tests use."""

from pathlib import Path

from alttrain.backbone import Backbone, ChatTemplate, LoRA

CHATML = ChatTemplate(
    system="<|im_start|>system\n{content}<|im_end|>\n",
    user="<|im_start|>user\n{content}<|im_end|>\n",
    assistant="<|im_start|>assistant\n",
    think_open="<think>\n",
    think_close="\n</think>\n\n",
    end="<|im_end|>",
)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA = LoRA(rank=4, alpha=8, target_modules=PROJECTIONS)


def backbone(folder: Path) -> Backbone:
    """The tiny backbone as a config would build it."""
    return Backbone("tiny", str(folder), CHATML, context_length=512, untrained_thought="absent")
