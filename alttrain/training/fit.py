"""One training: model and sequences in, checkpoints and trained weights out.

During training, `checkpoints/last.ckpt` in the run's folder holds the trainable weights, optimizer, schedule and step.
The next call resumes from it.
"""

import hashlib
import logging
import math
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from alttrain import tokenization
from alttrain.backbone import attention
from alttrain.backbone.device import GIB, detect_device
from alttrain.records import DamagedError, open_regular, replacing
from alttrain.training import Hardware, SafeKeyLoss, SupervisedFineTuning
from alttrain.training.batches import BatchStream
from alttrain.training.distributed import environment
from alttrain.training.module import ROW_MULTIPLE, SFTModule, compile_for_training, recompute_layers, unsharded

log = logging.getLogger(__name__)

DIVERGED = 1.5
"""A training diverged if the mean of its last losses exceeds this factor times the mean of its first losses."""
ENDS = 10  # number of steps compared at each end of a training; with fewer than twice as many steps, half of them


class _AfterStep(pl.Callback):  # type: ignore[misc]
    """Calls `act` after each complete step. For Lightning, a batch is one pass of a step."""

    def __init__(self, act: Callable[[pl.Trainer, SFTModule], None]) -> None:
        self.act = act

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches == 0:
            self.act(trainer, module)


class _StopAfterStep(_AfterStep):
    """On Ctrl-C or SIGTERM, finish the step, save a checkpoint and stop. A second signal stops at once.

    All devices stop after the same step, whichever of them got the signal: saving a checkpoint takes all of them.
    """

    def __init__(self, last: Path) -> None:
        super().__init__(self._stop)
        self.last, self.stopping = last, False
        self._earlier_handlers: dict[int, Any] = {}

    def on_train_start(self, *unused: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers only there
            signals = (signal.SIGINT, signal.SIGTERM)
            self._earlier_handlers = {number: signal.signal(number, self._handle) for number in signals}

    def _stop(self, trainer: pl.Trainer, module: SFTModule) -> None:
        if trainer.strategy.reduce_boolean_decision(self.stopping, all=False):
            trainer.save_checkpoint(self.last)
            raise KeyboardInterrupt

    def teardown(self, *unused: Any, **ignored: Any) -> None:
        for number, handler in self._earlier_handlers.items():
            signal.signal(number, handler)
        self._earlier_handlers = {}

    on_exception = teardown

    def _handle(self, *unused: Any) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        log.info("training  stops after this step; Ctrl-C again stops it at once, and loses what is not saved")


def _log_first_step(trainer: pl.Trainer, module: SFTModule) -> None:
    """Log the first step of a training: Lightning logs every `log_every`-th step, so the first row would be late."""
    if trainer.global_step == 1 and trainer.log_every_n_steps > 1:
        numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics(numbers | {"epoch": trainer.current_epoch}, 0)


def _sample(take: Callable[[int], None], every: int, trainer: pl.Trainer, module: SFTModule) -> None:
    """Call `take` after the first step and every `every` steps, with the model in evaluation mode."""
    step = trainer.global_step
    if (step == 1 or step % every == 0) and trainer.is_global_zero:
        module.eval()
        take(step)
        module.train()


def _show(advance: Callable[[int, str], None], trainer: pl.Trainer, module: SFTModule) -> None:
    """Advance a bar, with loss, tokens per second and memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    on_gpu = module.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else unit * getrusage(RUSAGE_SELF).ru_maxrss
    speed = float(trainer.callback_metrics.get("tokens_per_second", 0))
    advance(1, f"loss {float(module.losses[-1]):.3f}, {speed:.0f} tokens/s, {peak / GIB:.1f} GiB")


class _AtomicCheckpoints(TorchCheckpointIO):  # type: ignore[misc]
    """Writes each checkpoint to a temporary file in the same folder, and renames it when it is complete.

    Lightning writes to the system's temporary folder and may copy the file from there; a kill during the copy leaves no
    usable checkpoint. Each checkpoint also stores a hash that identifies its training (`made_from`) and a checksum.
    """

    def __init__(self, made_from: str) -> None:
        super().__init__()
        self.made_from = made_from

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoint = checkpoint | {"made_from": self.made_from}
        checkpoint["checksum"] = _checksum(checkpoint)
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)


def _checksum(checkpoint: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a checkpoint's content, whatever devices its tensors are on. Threads hash the tensors."""

    def parts(state: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(state, Mapping | list | tuple):
            children = list(state.items() if isinstance(state, Mapping) else enumerate(state))
            yield name, len(children)
            for key, child in children:
                yield from parts(child, f"{name}/{key!r}")
        else:
            yield name, state

    def line(part: tuple[str, Any]) -> str:
        name, value = part
        if isinstance(value, torch.Tensor):
            content: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            value = value.dtype, tuple(value.shape), hashlib.sha256(content).hexdigest()
        return f"{name} {value!r}\n"

    with ThreadPoolExecutor() as pool:
        lines = pool.map(line, parts({key: checkpoint[key] for key in checkpoint if key != "checksum"}, ""))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _first_step(last: Path, made_from: str) -> int:
    """Return the step to resume from: the checkpoint's, or 0 if there is none or it is unusable (with a warning).

    Raises DamagedError if the path is not a regular file.
    """
    if not last.exists():
        return 0
    try:
        with open_regular(last):  # a regular file; its tensors are read where they are needed, not into memory
            checkpoint = torch.load(last, weights_only=True, map_location="cpu", mmap=True)
        intact = checkpoint["checksum"] == _checksum(checkpoint)
        if intact and checkpoint["made_from"] == made_from:
            return int(checkpoint["global_step"])
        fault = "it is of other examples, settings or weights" if intact else "its content is not what was saved"
    except DamagedError:
        raise
    except Exception as error:  # reading damaged bytes can raise anything
        fault = f"it cannot be read: {type(error).__name__}"
    log.warning("training  cannot go on from %s (%s); it begins anew", last, fault)
    return 0


@dataclass(frozen=True)
class TrainingResult:
    """The record for train.json, and the trained weights by name, which only the first device has."""

    record: dict[str, Any]
    weights: dict[str, torch.Tensor]


class _Sharded(ModelParallelStrategy):  # type: ignore[misc]
    """FSDP2 over all devices, for trainings too large for one device.

    A checkpoint is one file with only the trainable weights, as on a single device.
    """

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the trainable weights, unsharded, on the first device; an empty dict on the others."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)


def _compiles(hardware: Hardware, bfloat16: bool) -> bool:
    """Return whether each layer is compiled: by default where CUDA's attention kernel takes a whole row.

    Elsewhere the program would depend on each sequence's length, and be compiled anew for every batch.
    """
    if hardware.compiled != "auto":
        return hardware.compiled == "on"
    return bfloat16 and attention.HAS_VARLEN and detect_device(hardware.accelerator).name != "cpu"


def _strategy(hardware: Hardware, recipe: SupervisedFineTuning) -> Any:
    if hardware.world_size == 1:
        return "auto"
    if hardware.sharded:
        devices = hardware.world_size
        return _Sharded(data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False)
    heads = isinstance(recipe.objective, SafeKeyLoss)  # unused except in the last epochs
    return DDPStrategy(find_unused_parameters=heads, gradient_as_bucket_view=True)


def fit(
    model: Any,
    sequences: list[tokenization.Sequence],
    recipe: SupervisedFineTuning,
    hardware: Hardware,
    seed: int,
    folder: Path,
    loggers: Sequence[Logger],
    bfloat16: bool,
    bar: Callable[[str, int, int], Any] | None = None,
    samples: Callable[[int], None] | None = None,
    base: str = "",
) -> TrainingResult:
    """Train in place the weights of `model` that require gradients, resuming from the last checkpoint if there is one.

    With `bfloat16`, a model with float32 weights trains in mixed precision. Raises ValueError if loss, gradients or
    weights are not finite, and KeyboardInterrupt if the training is stopped. A training whose losses end higher than
    they began is recorded as diverged, with a warning. `bar` opens a progress bar, given label, total and steps done.
    `samples` is called with the step, every `hardware.samples_every` steps. `base` identifies the weights that the
    model was loaded from: a checkpoint of a training on others is not resumed from.
    """
    on_cuda = detect_device(hardware.accelerator).name != "cpu"
    compiled = _compiles(hardware, bfloat16)
    last = folder / "checkpoints" / "last.ckpt"
    devices, steps = hardware.world_size, recipe.steps(len(sequences))
    passes = hardware.passes(recipe.batch_size)
    torch.manual_seed(seed)
    module = SFTModule(model, recipe, steps, passes, seed)
    made_from = _identity(module, sequences, seed, bfloat16, base)
    start = _first_step(last, made_from)
    if hardware.recompute:
        recompute_layers(model)
    if compiled:
        compile_for_training(model)
    if start:
        log.info("training goes on from step %d of %d", start, steps)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|torch.utils.data|lightning_fabric")
        mixed = bfloat16 and next(model.parameters()).dtype == torch.float32
        checkpoints = ModelCheckpoint(
            dirpath=last.parent,
            filename="step",
            every_n_train_steps=hardware.checkpoint_every,
            save_last=True,
            save_top_k=0,
            enable_version_counter=False,  # otherwise a run whose folder was moved would start a second file
        )
        callbacks = [checkpoints, _StopAfterStep(last), _AfterStep(_log_first_step)]
        if samples and hardware.samples_every:
            callbacks.append(_AfterStep(partial(_sample, samples, hardware.samples_every)))
        trainer = pl.Trainer(
            accelerator="cuda" if on_cuda else "cpu",  # Lightning's own choice may be MPS, on which nothing else runs
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=_strategy(hardware, recipe),
            plugins=[environment(), _AtomicCheckpoints(made_from)],
            precision="bf16-mixed" if mixed else "32-true",  # adapters compute in the backbone's dtype
            max_steps=steps,
            max_epochs=-1,
            accumulate_grad_batches=passes,
            gradient_clip_val=recipe.gradient_clip,
            logger=loggers,
            callbacks=callbacks,
            log_every_n_steps=hardware.log_every,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        multiple = ROW_MULTIPLE if compiled else 1
        stream = BatchStream(sequences, recipe, seed, start, multiple, devices, trainer.global_rank, passes)
        module.train()
        try:
            with bar("training", steps, start) if bar else nullcontext() as advance:
                if advance:
                    # after the callback that writes checkpoints
                    trainer.callbacks.append(_AfterStep(partial(_show, advance)))
                trainer.fit(module, stream, ckpt_path=last if start else None, weights_only=True)
        except SystemExit as exit_:  # Lightning turns Ctrl-C into SystemExit
            raise KeyboardInterrupt from exit_
    if trainer.global_step < steps:
        raise KeyboardInterrupt(f"training stopped at step {trainer.global_step} of {steps}")
    record = _record(module, stream, bfloat16)
    trained = {}
    for name, parameter in module.model.named_parameters():
        if parameter.requires_grad:
            whole = unsharded(parameter)  # by all devices
            if trainer.is_global_zero:  # the others' copies would fill the machine's memory
                trained[name] = whole
    module.check_finite(trained)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return TrainingResult(record, trained)


def _identity(
    module: SFTModule, sequences: Sequence[tokenization.Sequence], seed: int, bfloat16: bool, base: str
) -> str:
    """Return a hash of what a training is made from.

    That is its recipe, seed, precision and examples, the weights that it begins with, and the names and shapes of those
    that it trains.
    """
    digest = hashlib.sha256(f"{module.recipe} {seed} {bfloat16} {base}".encode())
    for sequence in sequences:
        digest.update(repr(sequence).encode())
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
    return digest.hexdigest()


def _record(module: SFTModule, stream: BatchStream, bfloat16: bool) -> dict[str, Any]:
    """Return the record of a complete training, with a warning if it diverged."""
    record = {
        "steps": stream.steps,
        "examples": len(stream.sequences),
        "tokens": stream.tokens,
        "precision": "bfloat16" if bfloat16 else "float32",
        "seconds": round(module.seconds, 1),
        "devices": stream.devices,
        "final_loss": round(float(module.losses[-1]), 4) if module.losses else None,
    }
    if has_diverged(module.losses):
        record["diverged"] = True
        hint = "lower training.learning_rate, and set tag=NAME for a run of its own"
        log.warning("training  diverged: its last losses are above %g times its first ones; %s", DIVERGED, hint)
    return record


def has_diverged(losses: Sequence[Any]) -> bool:
    """Return whether the step losses end higher than they began; see `DIVERGED`."""
    ends = min(ENDS, len(losses) // 2)
    return ends > 0 and math.fsum(map(float, losses[-ends:])) > DIVERGED * math.fsum(map(float, losses[:ends]))
