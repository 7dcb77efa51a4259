"""Experiment trackers beside logs/metrics.csv, which every training writes: wandb, TensorBoard or MLflow.

A tracker is what the config says: where a run's numbers go, and what of its samples. It gets losses, rates, lengths and
verdicts; prompts and model text only where `texts` says so. Keys come from the environment and are never written.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from alttrain.records import Texts

if TYPE_CHECKING:
    from alttrain.training.sinks import Sink

LONGEST_ID = 64
"""Characters of a wandb run's id."""


@dataclass(frozen=True)
class Tracked:
    """What a tracker knows of a run; `sweep` is what runs that belong together are called."""

    name: str
    folder: Path
    sweep: str
    config: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The same whenever this run goes on, in whatever process: its name, and a hash of what shapes it."""
        path = self.folder / "fingerprint.json"
        shaped = path.read_bytes() if path.exists() else b""
        digest = sha256(self.name.encode() + shaped).hexdigest()[:8]
        return f"{self.name[: LONGEST_ID - 9]}-{digest}"


class Table(NamedTuple):
    """A benchmark's samples, a row each."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Tracker(Protocol):
    """Where the numbers of a run go."""

    @property
    def texts(self) -> Texts:
        """Of whose samples it gets prompt, thought and answer."""

    def verify(self) -> None:
        """Raise ValueError where a package or a key it needs is not there."""

    def sink(self, run: Tracked) -> "Sink | None":
        """What takes the numbers; nothing is opened yet. None where the files in the run's folder are all."""


def _needs(package: str, extra: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"logger={option} needs {package}: pip install 'alttrain[{extra}]', or choose logger=csv")


@dataclass(frozen=True)
class CsvTracker:
    """logs/metrics.csv in the run's folder, one row each `trainer.log_every` steps, and nothing more."""

    texts: ClassVar[Texts] = "none"

    def verify(self) -> None:
        """It needs nothing."""

    def sink(self, run: Tracked) -> None:
        """The csv is written whatever the tracker; metrics.json holds the metrics."""


@dataclass(frozen=True)
class WandbTracker:
    """One wandb run for each run, grouped by sweep: config, loss, metrics, and a table of each benchmark's samples.

    `mode` "offline" needs no account and no network; the key of "online" comes from WANDB_API_KEY. Where the server
    does not answer within `patience_s` seconds, the run is logged offline. `group` None takes the sweep's name.
    `adapter` uploads what was trained as an artifact.
    """

    project: str
    mode: Literal["offline", "online"]
    group: str | None = None
    tags: Sequence[str] = ()
    texts: Texts = "none"
    adapter: bool = False
    patience_s: float = 30.0

    def verify(self) -> None:
        """An online run needs a key, or wandb would ask for it in the middle of training."""
        if self.mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise ValueError("logger.mode=online needs a key: set WANDB_API_KEY, or choose logger.mode=offline")

    def sink(self, run: Tracked) -> "Sink":
        """A wandb run."""
        from alttrain.training.sinks import WandbSink

        return WandbSink(self, run)


@dataclass(frozen=True)
class TensorBoardTracker:
    """tensorboard/ in the run's folder: loss, metrics and config. `tensorboard --logdir outputs/runs` shows all runs.

    It shows numbers alone: no samples.
    """

    texts: ClassVar[Texts] = "none"

    def verify(self) -> None:
        """It needs the package."""
        _needs("tensorboard", "tensorboard", "tensorboard")

    def sink(self, run: Tracked) -> "Sink":
        """Event files."""
        from alttrain.training.sinks import TensorBoardSink

        return TensorBoardSink(run)


@dataclass(frozen=True)
class MlflowTracker:
    """One MLflow run for each run, an experiment a sweep: config, loss, metrics, and each benchmark's samples as CSV.

    `uri` is a folder or a tracking server; a server's key comes from MLflow's own variables. `experiment` None takes
    the sweep's name. `adapter` logs what was trained as an artifact.
    """

    uri: str
    experiment: str | None = None
    texts: Texts = "none"
    adapter: bool = False

    def verify(self) -> None:
        """It needs the package."""
        _needs("mlflow", "mlflow", "mlflow")

    def sink(self, run: Tracked) -> "Sink":
        """An MLflow run."""
        from alttrain.training.sinks import MlflowSink

        return MlflowSink(self, run)
