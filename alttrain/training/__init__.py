"""Supervised fine-tuning on rewritten examples. Here are the config classes: recipe, hardware and loggers. No torch.

- `fit`              one training: trainer, checkpoints, resuming; begin to read at `fit.fit`
- `batches`          token sequences -> packed batches in a seeded order; `pack` is what TRL calls a collator
- `module`           the Lightning module: `training_step`, `loss`, AdamW, warm-up and cosine schedule
- `guarded_loggers`  runs Lightning's loggers in a thread, so that none can stop a run
- `distributed`      coordinates the processes of a training on several devices
"""

import importlib.util
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from alttrain.backbone.device import gpu_count
from alttrain.backbone.memory import Optimizer, Strategy
from alttrain.backbone.template import ThoughtMode

log = logging.getLogger(__name__)

Mean = Literal["tokens", "examples"]
"""The loss of a step is the mean over its response tokens, or over its examples' mean losses."""


@dataclass(frozen=True)
class ResponseLoss:
    """Cross-entropy of the response tokens. With `mean_over="tokens"`, long responses weigh more than short ones."""

    mean_over: Mean = "tokens"

    last_epochs: ClassVar[int] = 0
    needs_key_sentence: ClassVar[bool] = False


@dataclass(frozen=True)
class SafeKeyLoss:
    """The response loss, plus SafeKey's two losses (Zhou et al., 2025) in the last `last_epochs` epochs.

    One is of the key sentence, in a second pass that does not see the request. The other is of two linear heads that
    classify requests as harmful or harmless: one sees only the understanding, the other request and understanding. The
    heads are stored in checkpoints, not in the saved adapter or model.
    """

    key_weight: Annotated[float, Ge(0), Lt(inf)]  # of the key sentence's loss
    head_weight: Annotated[float, Ge(0), Lt(inf)]  # of the heads' loss
    theta: Annotated[float, Ge(0), Le(1)]  # the first head's weight in it; the other's is 1 - theta
    last_epochs: Annotated[int, Gt(0)]

    mean_over: ClassVar[Mean] = "examples"
    needs_key_sentence: ClassVar[bool] = True


@dataclass(frozen=True)
class SupervisedFineTuning:
    """AdamW with linear warm-up and cosine decay to zero, for either `epochs` or `max_steps`.

    With schedule "cosine" the first warm-up step has a rate above zero; "cosine_from_zero" is transformers' schedule,
    which starts at 0. `batch_size_of` maps backbone names to batch sizes; a recipe's YAML sets `batch_size` from it.
    """

    name: str
    epochs: Annotated[int, Gt(0)] | None
    learning_rate: Annotated[float, Gt(0), Lt(inf)]
    batch_size: Annotated[int, Gt(0)]  # in examples
    warmup_steps: Annotated[int, Ge(0)] | None
    max_length: Annotated[int, Gt(0)]  # in tokens; longer examples are left out and reported
    max_steps: Annotated[int, Gt(0)] | None = None
    warmup_share: Annotated[float, Ge(0), Lt(1)] | None = None  # of all steps, rounded up
    batch_size_of: Mapping[str, Annotated[int, Gt(0)]] = field(default_factory=dict)
    schedule: Literal["cosine", "cosine_from_zero"] = "cosine"
    optimizer: Optimizer = "adamw"
    weight_decay: Annotated[float, Ge(0), Lt(inf)] = 0.0
    betas: Annotated[Sequence[Annotated[float, Ge(0), Lt(1)]], MinLen(2), MaxLen(2)] = (0.9, 0.95)
    gradient_clip: Annotated[float, Gt(0), Lt(inf)] | None = 1.0  # the maximum gradient norm; None disables clipping
    b_ratio: Annotated[float, Gt(0), Lt(inf)] = 1.0  # learning rate of LoRA's B by A's (LoRA+, Hayou et al., 2024)
    thought: ThoughtMode = "open"
    objective: ResponseLoss | SafeKeyLoss = ResponseLoss()

    trains: ClassVar[Literal[True]] = True

    def __post_init__(self) -> None:
        for key, alternative in (("epochs", "max_steps"), ("warmup_steps", "warmup_share")):
            a, b = getattr(self, key), getattr(self, alternative)
            if (a is None) == (b is None):
                fault = "give one of them, and set the other to null"
                raise ValueError(f"training.{key}={a} and training.{alternative}={b}: {fault}")
        if isinstance(self.objective, SafeKeyLoss) and self.epochs is None:
            raise ValueError("training.objective counts from the last epoch: give training.epochs, not max_steps")

    def steps_per_epoch(self, examples: int) -> int:
        """Return the number of batches per epoch. The last batch may be smaller."""
        return -(-examples // self.batch_size)

    def steps(self, examples: int) -> int:
        """Return the number of optimizer steps for this number of examples."""
        return self.max_steps or (self.epochs or 0) * self.steps_per_epoch(examples)

    def warmup(self, steps: int) -> int:
        """Return the number of warm-up steps in a training of `steps` steps, at most `steps` - 1."""
        warmup = self.warmup_steps if self.warmup_share is None else ceil(steps * self.warmup_share)
        return min(warmup or 0, steps - 1)


@dataclass(frozen=True)
class NoTraining:
    """The untrained backbone, as the No-train baseline. `thought` says how its prompts end."""

    name: str
    thought: ThoughtMode

    trains: ClassVar[Literal[False]] = False


@dataclass(frozen=True)
class Hardware:
    """The devices that models run on.

    `devices` on each of `nodes` machines train together. With `strategy` "ddp" each device has a copy of the backbone,
    and "fsdp" shards it, what is trained, and its optimizer; only the first process has the whole model in system
    memory, before it sends the shards. The recipe's batch is split over the devices, and on each device into passes of
    at most `examples_per_pass` examples (gradient accumulation).

    If a training does not fit into `memory_gib`, these are applied in order until it does: `recompute` (activation
    checkpointing: a third more computation, for rows several times as long), one example per pass, sharding over up to
    `most_devices`.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    devices: Annotated[int, Gt(0)] = 1
    nodes: Annotated[int, Gt(0)] = 1
    strategy: Strategy = "ddp"
    examples_per_pass: Annotated[int, Gt(0)] | None = None
    compiled: Literal["auto", "on", "off"] = "auto"  # each layer, for training; auto: in bfloat16 on CUDA
    recompute: bool = False
    threads: Annotated[int, Gt(0), Le(1024)] | None = None  # on a CPU; None leaves the number to torch
    log_every: Annotated[int, Gt(0)] = 10  # in steps
    checkpoint_every: Annotated[int, Gt(0)] = 50  # in steps
    samples_every: Annotated[int, Gt(0)] | None = None  # steps between sample answers to a few harmless prompts
    memory_gib: Annotated[float, Gt(0)] | None = None  # per device, also of devices that this machine does not have
    most_devices: Annotated[int, Gt(0)] = 1

    @property
    def world_size(self) -> int:
        """Devices that train together, over all nodes."""
        return self.devices * self.nodes

    @property
    def sharded(self) -> bool:
        """Whether FSDP shards the backbone over several devices."""
        return self.strategy == "fsdp" and self.world_size > 1

    def passes(self, batch_size: int) -> int:
        """Return the passes of a step on each device."""
        device_batch = -(-batch_size // self.world_size)
        return -(-device_batch // (self.examples_per_pass or device_batch))

    def overrides(self, of: "Hardware") -> tuple[str, ...]:
        """Return the command-line overrides that make these settings out of others."""
        changed = {key: value for key, value in vars(self).items() if value != getattr(of, key)}
        return tuple(f"++trainer.{key}={str(value).lower()}" for key, value in changed.items())

    def check(self) -> None:
        """Raise ValueError if sample answers need weights that are sharded."""
        if self.samples_every and self.sharded:
            fault = f"no device has all weights with trainer.strategy={self.strategy}"
            accepted = "accepted: null there, or strategy=ddp"
            raise ValueError(f"trainer.samples_every={self.samples_every}: {fault}; {accepted}")

    def check_gpus(self) -> None:
        """Raise ValueError if this machine, which is to train, has fewer GPUs than `devices`."""
        count = gpu_count() if self.devices > 1 and self.accelerator != "cpu" else 0
        if 0 < count < self.devices:
            raise ValueError(f"trainer.devices={self.devices}: this machine has {count} GPU{'s' * (count > 1)}")


@dataclass(frozen=True)
class LoggedRun:
    """The run that a logger gets. `id` stays the same when the run is resumed. `sweep` is the sweep's name, or ""."""

    id: str
    name: str
    folder: Path
    sweep: str
    config: Mapping[str, Any]


class Logger(ABC):
    """An option of conf/logger, which opens one of Lightning's loggers."""

    holds: ClassVar[Sequence[str]] = ("training", "evaluation", "samples")  # metrics of both, samples of the latter
    package: ClassVar[str] = ""  # what must be installed, and the name of alttrain's extra that installs it

    def check(self) -> None:
        """Raise ValueError if a package or API key is missing."""
        if (name := self.package) and importlib.util.find_spec(name) is None:
            raise ValueError(f"logger={name} needs {name}: pip install 'alttrain[{name}]', or choose logger=csv")

    @abstractmethod
    def open(self, run: LoggedRun) -> AbstractContextManager[Any]:
        """Open Lightning's logger; it closes with the context. A run that was logged before is continued."""


@dataclass(frozen=True)
class Csv(Logger):
    """Writes logs/metrics.csv in the run's folder, a row every `trainer.log_every` steps, which the report plots."""

    holds = ("training",)

    @contextmanager
    def open(self, run: LoggedRun) -> Iterator[Any]:
        from alttrain.training.guarded_loggers import ContinuedCSVLogger

        yield ContinuedCSVLogger(run.folder, name="", version="logs", flush_logs_every_n_steps=1)


@dataclass(frozen=True)
class TensorBoard(Logger):
    """Writes to tensorboard/ in the run's folder, with the config in hparams.yaml.

    `tensorboard --logdir outputs/runs` shows all runs.
    """

    holds, package = ("training", "evaluation"), "tensorboard"

    @contextmanager
    def open(self, run: LoggedRun) -> Iterator[Any]:
        from alttrain.training.guarded_loggers import ContinuedTensorBoardLogger

        logger = ContinuedTensorBoardLogger(run.folder, name="", version="tensorboard", default_hp_metric=False)
        logger.log_hyperparams(dict(run.config))
        yield logger
        logger.finalize("success")


@dataclass(frozen=True)
class Wandb(Logger):
    """A wandb run in `project`. `group` None uses the sweep's name.

    With `mode` "offline" no account is needed. "online" reads the API key from WANDB_API_KEY, without which wandb would
    ask for one in the middle of the training, and logs offline if the server does not answer.
    """

    project: str
    mode: Literal["offline", "online"]
    group: str | None = None
    tags: Sequence[str] = ()

    def check(self) -> None:
        if self.mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise ValueError("logger.wandb.mode=online needs a key: set WANDB_API_KEY, or choose offline")

    @contextmanager
    def open(self, run: LoggedRun) -> Iterator[Any]:
        import wandb
        from pytorch_lightning.loggers import WandbLogger

        from alttrain.training.guarded_loggers import PATIENCE_S

        settings = wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
            reinit="create_new",  # jobs of a sweep may follow each other in one process
            init_timeout=PATIENCE_S,
            finish_timeout=PATIENCE_S,  # also bounds what wandb does when the process exits
        )
        options = {"group": self.group or run.sweep or None, "tags": list(self.tags), "settings": settings}
        for mode in (self.mode, "offline"):
            logger = WandbLogger(run.name, run.folder, project=self.project, id=run.id, mode=mode, **options)
            try:
                logger.log_hyperparams(dict(run.config))
                break
            except Exception as error:  # no network, a rejected key, and others
                if mode == "offline":
                    raise
                log.warning("logger    wandb cannot be reached, so this run is logged offline: %s", error)
                wandb.teardown()  # otherwise the id stays in use
        try:
            yield logger
        finally:
            logger.experiment.finish()


@dataclass(frozen=True)
class Trackio(Logger):
    """A trackio run in `project`, in a database on this machine. Its name is the run's id, by which it is continued.

    trackio itself warns of what it cannot write, and goes on.
    """

    project: str

    package = "trackio"

    @contextmanager
    def open(self, run: LoggedRun) -> Iterator[Any]:
        import trackio

        from alttrain.training.guarded_loggers import TrackioLogger

        quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        options = {"group": run.sweep or None, "config": dict(run.config), "resume": "allow", **quiet}
        logger = TrackioLogger(trackio.init(self.project, run.id, **options))
        try:
            yield logger
        finally:
            logger.run.finish()


@dataclass(frozen=True)
class Mlflow(Logger):
    """An MLflow run. `uri` is a folder or a server, whose credentials are read from MLflow's environment variables.

    `experiment` None uses the sweep's name. MLflow assigns run ids itself, so a resumed run is found by a tag. A server
    that is down for half a minute loses nothing; MLFLOW_HTTP_REQUEST_MAX_RETRIES sets for how long it is tried.
    """

    uri: str
    experiment: str | None = None

    package = "mlflow"

    @contextmanager
    def open(self, run: LoggedRun) -> Iterator[Any]:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # otherwise MLflow 3 requires a database
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # half a minute; its default is four minutes
        from mlflow.tracking import MlflowClient
        from pytorch_lightning.loggers import MLFlowLogger

        client, name = MlflowClient(self.uri), self.experiment or run.sweep or "alttrain"
        tags = {"alttrain_id": run.id, "sweep": run.sweep}
        known = client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else client.create_experiment(name)
        earlier = client.search_runs([experiment], f"tags.alttrain_id = '{run.id}'", max_results=1)
        logger = MLFlowLogger(name, run.name, self.uri, tags, run_id=earlier[0].info.run_id if earlier else None)
        try:
            client.log_dict(logger.run_id, dict(run.config), "config.json")  # parameters are cut at 250 characters
            if earlier:
                client.update_run(logger.run_id, status="RUNNING")
            else:  # MLflow rejects a changed parameter, such as the stages
                logger.log_hyperparams(dict(run.config))
            yield logger
        finally:
            logger.finalize("success")
