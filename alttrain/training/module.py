"""The Lightning module of supervised fine-tuning. Its checkpoints hold only the trainable weights."""

import math
import random
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn import functional

from alttrain.backbone.attention import PackedSequences, row_masks
from alttrain.backbone.fused import response_loss
from alttrain.records import LOSS
from alttrain.training import SafeKeyLoss, SupervisedFineTuning
from alttrain.training.batches import MarkedBatch, PackedBatch

ROW_MULTIPLE = 512
"""Compiled training pads each row to a multiple of this many tokens, so that few row lengths are compiled."""
MOST_PROGRAMS = 64  # maximum number of compiled programs per layer, one for each row length


def causal_lm(model: Any) -> Any:
    """Return the language model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def compile_for_training(model: Any) -> None:
    """Compile every decoder layer. All layers share one program per row length."""
    language_model = causal_lm(model)
    language_model.enable_input_require_grads()  # without it the first layer needs a second program
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_PROGRAMS)
    for layer in language_model.get_decoder().layers:
        layer.compile(dynamic=False)


def recompute_layers(model: Any) -> None:
    """Enable activation checkpointing: keep only each decoder layer's input, and recompute the rest when needed."""
    language_model, options = causal_lm(model), {"use_reentrant": False}
    if hasattr(language_model, "activation_checkpointing_enable"):
        language_model.activation_checkpointing_enable(options)
    else:  # before transformers 5.20
        language_model.gradient_checkpointing_enable(options)


def unsharded(tensor: Tensor) -> Tensor:
    """Return the full tensor on the CPU. Gathering a sharded tensor is a collective: all devices must call this."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().cpu()


class SafetyHeads(torch.nn.Module):
    """SafeKey's safety heads (Zhou et al., 2025): linear classifiers of harmful requests on the last hidden states.

    `alone` sees only the understanding, `whole` the request and the understanding. The heads have no bias: the biases
    in SafeKey's public code are never trained.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.alone = torch.nn.Linear(size, 1, bias=False)
        self.whole = torch.nn.Linear(size, 1, bias=False)

    def loss(self, hidden: Tensor, marked: MarkedBatch, theta: float) -> Tensor:
        """Return the weighted binary cross-entropy of the two heads in nats, averaged over marked examples.

        `hidden` is (tokens, size). `theta` weights `alone`, 1 - `theta` weights `whole`.
        """
        heads = (
            (self.alone, theta, [(response_start, end) for _, response_start, end in marked.spans]),
            (self.whole, 1 - theta, [(start, end) for start, _, end in marked.spans]),
        )
        loss = hidden.new_zeros((), dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for head, weight, spans in heads:
                means = torch.stack([hidden[start:end].float().mean(0) for start, end in spans])
                logits = head(means)[:, 0]
                loss = loss + weight * functional.binary_cross_entropy_with_logits(logits, marked.harmful)
        return loss


class SFTModule(pl.LightningModule):  # type: ignore[misc]
    """Trains on the response tokens of packed batches. `model` is a peft model, or one whose weights are all trained.

    A step has `passes` batches, whose gradients are accumulated; for Lightning, each is a batch of its own.
    Logs `loss` in nats, `learning_rate`, `gradient_norm` before clipping, and `tokens_per_second` of this device.
    """

    def __init__(
        self, model: Any, recipe: SupervisedFineTuning, total_steps: int, passes: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        self.strict_loading = False  # the frozen backbone is not in the checkpoints
        self.model, self.recipe, self.total_steps, self.passes, self.seed = model, recipe, total_steps, passes, seed
        self.heads: SafetyHeads | None = None
        if isinstance(recipe.objective, SafeKeyLoss):
            self.heads = SafetyHeads(causal_lm(model).config.hidden_size)
        self.losses: list[Any] = []  # of every complete step, in nats
        self._step_loss: Any = 0.0
        self._step_tokens, self._step_began = 0, time.monotonic()
        self._earlier_seconds, self._began = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, including runs that were interrupted."""
        return self._earlier_seconds + time.monotonic() - self._began

    def configure_model(self) -> None:
        """Shard all weights over the devices if the strategy does (FSDP2).

        A layer's weights are gathered when it runs, embeddings, head and final norm for the whole step. Only the first
        process has loaded them. The others begin with memory that is reserved and not used, and get their shards of it.
        """
        if not isinstance(self.trainer.strategy, ModelParallelStrategy) or isinstance(self, FSDPModule):
            return
        if self.global_rank > 0:
            self.to_empty(device="cpu")
            causal_lm(self.model).tie_weights()
        weights = self.state_dict() if self.global_rank == 0 else {}
        mesh = self.device_mesh["data_parallel"]
        for layer in causal_lm(self.model).get_decoder().layers:
            fully_shard(layer, mesh=mesh)
        if self.heads is not None:  # apart, since a group has one dtype, and the heads' may not be the backbone's
            fully_shard(self.heads, mesh=mesh)
            register_fsdp_forward_method(self.heads, "loss")
        fully_shard(self, mesh=mesh)
        register_fsdp_forward_method(self, "loss")
        set_model_state_dict(self, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
        for buffer in self.buffers():  # a checkpoint has not all of them, such as the frequencies of position ids
            torch.distributed.broadcast(buffer, 0)

    def training_step(self, batch: PackedBatch, batch_index: int) -> Tensor:
        """Return this pass's contribution to the step's mean loss, in nats.

        Dropout has a seed for each pass and device, so that a resumed training drops the same.
        """
        torch.manual_seed(random.Random(f"pass-{self.seed}-{batch_index}-{self.global_rank}").getrandbits(63))
        loss = self.loss(batch) * batch.loss_scale
        self._step_loss += loss.detach()
        self._step_tokens += batch.tokens if batch.loss_scale else 0  # not of an example that stands in for none
        if (batch_index + 1) % self.passes == 0:
            step_loss = self.trainer.strategy.reduce(self._step_loss / self.passes, reduce_op="mean")
            self.losses.append(step_loss)
            now = time.monotonic()
            self.log(LOSS, step_loss, prog_bar=True, batch_size=1)
            self.log("learning_rate", self.recipe.learning_rate * self.factor(self.global_step), batch_size=1)
            self.log("tokens_per_second", self._step_tokens / max(now - self._step_began, 1e-9), batch_size=1)
            self._step_loss, self._step_tokens, self._step_began = 0.0, 0, now
        return loss

    def loss(self, batch: PackedBatch) -> Tensor:
        """Return the mean loss of a packed batch. The full logits are never in memory at once."""
        hidden = self._hidden(batch)
        loss = self._response_loss(hidden, batch)
        objective, marked = self.recipe.objective, batch.marked
        if marked is None or self.heads is None or not isinstance(objective, SafeKeyLoss):
            return loss
        marked_loss = objective.key_weight * self._response_loss(self._hidden(marked.key), marked.key)
        marked_loss = marked_loss + objective.head_weight * self.heads.loss(hidden, marked, objective.theta)
        return loss + marked_loss * marked.share

    def _hidden(self, batch: PackedBatch) -> Tensor:
        """Return the decoder's last hidden states (tokens, size)."""
        at_most = self.recipe.batch_size + 1  # one more for the padding
        packed = PackedSequences.training(batch.lengths, batch.ids.device, at_most)
        decoder = causal_lm(self.model).get_decoder()
        masks = row_masks(decoder, batch.lengths)
        output = decoder(batch.ids, attention_mask=masks, position_ids=batch.positions, packed=packed, use_cache=False)
        return output.last_hidden_state[0]  # type: ignore[no-any-return]

    def _response_loss(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        head = causal_lm(self.model).get_output_embeddings().weight
        if head.requires_grad and torch.is_autocast_enabled(hidden.device.type):
            head = head.to(torch.get_autocast_dtype(hidden.device.type))
        return response_loss(hidden[batch.logit_positions], head, batch.targets, batch.token_weights)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradient norm. Raises ValueError if loss or norm is not finite, before the weights are updated.

        bfloat16 has float32's range, so an overflow is no artefact of loss scaling that could be skipped. Fairseq and
        Megatron-LM also stop the training.
        """
        parameters = list(self.trainer.precision_plugin.main_params(optimizer))
        most = math.inf if gradient_clip_val is None else gradient_clip_val
        norm = float(unsharded(torch.nn.utils.clip_grad_norm_(parameters, most)))
        self.log("gradient_norm", norm, batch_size=1)
        if not (math.isfinite(self.losses[-1]) and math.isfinite(norm)):
            raise self._diverged(self.global_step + 1, f"gradient norm {norm:.4g}")

    def _diverged(self, step: int, evidence: str) -> ValueError:
        """Return the error for a training that diverged. `step` counts from 1."""
        rate = self.recipe.learning_rate * self.factor(step - 1)
        return ValueError(
            f"the training diverged at step {step} of {self.total_steps}: loss "
            f"{float(self.losses[-1]):.4g}, {evidence}, learning rate {rate:.4g}; nothing of it is saved, and there is "
            f"no adapter to evaluate. Set training.learning_rate below {self.recipe.learning_rate:g}, more warm-up "
            "steps, a lower training.gradient_clip, or trainer.precision=float32, and tag=NAME for a run of its own"
        )

    def configure_optimizers(self) -> dict[str, Any]:
        """Return AdamW over the trainable weights, and the learning-rate schedule, which advances every step."""
        recipe, on_cuda = self.recipe, next(self.model.parameters()).device.type == "cuda"
        groups: dict[bool, list[torch.nn.Parameter]] = {False: [], True: []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["lora_B" in name].append(parameter)
        rate, betas = recipe.learning_rate, (recipe.betas[0], recipe.betas[1])
        parameters = [{"params": groups[False], "lr": rate}, {"params": groups[True], "lr": rate * recipe.b_ratio}]
        settings: dict[str, Any] = {"lr": rate, "betas": betas, "weight_decay": recipe.weight_decay}
        if recipe.optimizer == "adamw_8bit":
            from bitsandbytes.optim import AdamW8bit

            optimizer = AdamW8bit([group for group in parameters if group["params"]], **settings)
        else:
            optimizer = torch.optim.AdamW(parameters, fused=on_cuda or None, **settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int) -> float:
        """Return a step's learning rate as a fraction of the peak: linear warm-up, then cosine decay to zero."""
        warmup = self.recipe.warmup(self.total_steps)
        if step < warmup:
            return step / warmup if self.recipe.schedule == "cosine_from_zero" else (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * ((step - warmup) / (self.total_steps - warmup))))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the trainable weights, and add the losses and the elapsed time.

        Raises ValueError if a weight is not finite.
        """
        trainable = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in trainable}
        self.check_finite(checkpoint["state_dict"])
        checkpoint["seconds"] = self.seconds
        checkpoint["losses"] = self.losses = list(map(float, self.losses))

    def check_finite(self, weights: Mapping[str, Tensor]) -> None:
        """Raise ValueError if a weight is not finite, so that such weights are never saved."""
        for name, weight in weights.items():
            if not weight.isfinite().all():
                raise self._diverged(self.global_step, f"{name} not finite")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore losses and elapsed time, and count the passes before the step as this training divides its steps."""
        self.losses, self._earlier_seconds = checkpoint["losses"], checkpoint["seconds"]
        done = checkpoint["global_step"] * self.passes
        counts = {"ready": done, "started": done, "processed": done, "completed": done - 1}  # saved in the last one
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"].update(counts)

    def on_train_start(self) -> None:
        """Begin to measure the first step, and let heads that have taken none yet begin with their first."""
        self._step_began = time.monotonic()
        if self.heads is not None and self.recipe.epochs:
            marked = self.recipe.objective.last_epochs * (self.total_steps // self.recipe.epochs)
            if self.global_step <= self.total_steps - marked:  # loading for FSDP makes up a step of theirs
                for parameter in self.heads.parameters():
                    self.trainer.optimizers[0].state.pop(parameter, None)
