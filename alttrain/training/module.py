"""The Lightning module of supervised fine-tuning. Its checkpoints hold the trainable weights only."""

import math
from typing import Any

import pytorch_lightning as pl
import torch

from alttrain.backbone.attention import Rows
from alttrain.backbone.head import response_loss
from alttrain.training.config import SupervisedFineTuning
from alttrain.training.packing import PackedBatch


class SFTModule(pl.LightningModule):  # type: ignore[misc]
    """Cross-entropy on response tokens of packed batches, through a peft model."""

    def __init__(self, model: Any, recipe: SupervisedFineTuning, total_steps: int) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints leave the frozen backbone out
        self.model = model
        self.recipe = recipe
        self.total_steps = total_steps

    def training_step(self, batch: PackedBatch, batch_index: int) -> torch.Tensor:
        """Mean loss over the batch's response tokens, in nats."""
        loss = self.loss(batch)
        self.log("loss", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def loss(self, batch: PackedBatch) -> torch.Tensor:
        """The mean loss of one packed batch; logits of all positions at once are never made."""
        causal_lm = self.model.get_base_model()
        hidden = causal_lm.get_decoder()(
            input_ids=batch.ids, position_ids=batch.positions, rows=Rows(batch.lengths), use_cache=False
        ).last_hidden_state
        return response_loss(hidden[0, batch.keep], causal_lm.get_output_embeddings().weight, batch.targets)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW over the trainable weights, with the schedule stepped every batch."""
        rate = self.recipe.learning_rate
        groups: dict[bool, list[torch.nn.Parameter]] = {False: [], True: []}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups["lora_B" in name].append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {"params": groups[False], "lr": rate},
                {"params": groups[True], "lr": rate * self.recipe.b_ratio},
            ],
            lr=rate,
            betas=(self.recipe.betas[0], self.recipe.betas[1]),
            weight_decay=self.recipe.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int) -> float:
        """Learning rate of a step as a share of its peak: linear warm-up, then a cosine to zero."""
        warmup = min(self.recipe.warmup_steps, self.total_steps - 1)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, self.total_steps - warmup))))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trainable weights only."""
        trainable = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in trainable}
