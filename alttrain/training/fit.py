"""One training: model and sequences -> checkpoints to resume from, and the trained model.

Writes `checkpoints/last.ckpt` in the run's folder while training (adapter, optimizer, schedule, step), which the next
call goes on from.
"""

import logging
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar

from alttrain import tokenization
from alttrain.training.config import Hardware, SupervisedFineTuning
from alttrain.training.module import ROW_MULTIPLE, SFTModule, compile_layers, recompute_layers
from alttrain.training.packing import BatchStream

log = logging.getLogger(__name__)


class _Interruption(pl.Callback):  # type: ignore[misc]
    """On Ctrl-C, or a scheduler's SIGTERM, the step under way is finished and saved before training stops; on a second
    one it stops at once.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.asked = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: Any) -> None:
        """Save and stop if asked to."""
        if self.asked:
            trainer.save_checkpoint(self.last)
            raise KeyboardInterrupt

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back, however training ended."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back, however training ended."""
        self.teardown(trainer, pl_module, "fit")

    def _ask(self, *unused: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.info("training  stops after this step; Ctrl-C again stops it at once, and loses what is not saved")


def fit(
    model: Any,
    sequences: list[tokenization.Sequence],
    recipe: SupervisedFineTuning,
    hardware: Hardware,
    seed: int,
    folder: Path,
    logger: Any,
    bfloat16: bool,
    progress: bool,
) -> dict[str, Any]:
    """Train what of `model` is to be trained, in place, from the last checkpoint if there is one.

    `bfloat16` says in what products are made; a model whose own weights are float32 then trains in mixed precision.
    Returns what train.json records.
    """
    on_cuda = hardware.accelerator != "cpu" and torch.cuda.is_available()
    compiled = on_cuda if hardware.compiled == "auto" else hardware.compiled == "on"
    last = folder / "checkpoints" / "last.ckpt"
    start = torch.load(last, weights_only=True, map_location="cpu")["global_step"] if last.exists() else 0
    multiple = ROW_MULTIPLE if compiled else 1
    stream = BatchStream(sequences, recipe.batch_size, recipe.epochs, seed, start, multiple)
    module = SFTModule(model, recipe, total_steps=len(stream))
    if hardware.recompute:
        recompute_layers(model)
    if compiled:
        compile_layers(model)
    mixed = bfloat16 and next(model.parameters()).dtype == torch.float32
    checkpoints = ModelCheckpoint(
        dirpath=last.parent, filename="step", every_n_train_steps=recipe.checkpoint_every, save_last=True, save_top_k=0
    )
    callbacks: list[pl.Callback] = [checkpoints, _Interruption(last)]
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=1))
    if start:
        log.info("training goes on from step %d of %d", start, len(stream))
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|torch.utils.data|lightning_fabric")
        trainer = pl.Trainer(
            accelerator=hardware.accelerator,
            devices=1,
            precision="bf16-mixed" if mixed else "32-true",  # an adapter computes in its backbone's own dtype
            max_steps=len(stream),
            max_epochs=-1,
            gradient_clip_val=recipe.gradient_clip,
            logger=logger,
            callbacks=callbacks,
            log_every_n_steps=hardware.log_every,
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        module.train()
        try:
            trainer.fit(module, train_dataloaders=stream, ckpt_path=last if start else None, weights_only=True)
        except SystemExit as exit_:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from exit_
    if trainer.global_step < len(stream):
        raise KeyboardInterrupt(f"training stopped at step {trainer.global_step} of {len(stream)}")
    final = trainer.callback_metrics.get("loss")
    return {
        "steps": trainer.global_step,
        "examples": len(sequences),
        "tokens": sum(len(sequence) for sequence in sequences) * recipe.epochs,
        "precision": "bfloat16" if bfloat16 else "float32",
        "final_loss": None if final is None else round(float(final), 4),
    }
