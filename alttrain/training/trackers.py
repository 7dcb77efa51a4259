"""Experiment trackers: csv files in the run's folder (the default), or wandb.

A tracker gives Lightning its logger for training, takes the final metrics, and is closed in a finally. Trackers get
losses, rates and lengths, never prompts or model text. Keys come from the environment and are never written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


class Tracker(Protocol):
    """Where losses and metrics of a run go."""

    def open(self, folder: Path, run: str, config: Mapping[str, Any]) -> Any:
        """Lightning's logger for the run."""

    def close(self) -> None:
        """End what `open` began, whatever came between."""

    def summary(self, folder: Path, run: str, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Record the final metrics of the run."""


@dataclass(frozen=True)
class CsvTracker:
    """logs/metrics.csv in the run's folder, one row each `trainer.log_every` steps."""

    def open(self, folder: Path, run: str, config: Mapping[str, Any]) -> Any:
        """Lightning's csv logger."""
        from pytorch_lightning.loggers import CSVLogger

        return CSVLogger(save_dir=folder, name="logs", version="")

    def close(self) -> None:
        """Nothing to end: Lightning writes the file."""

    def summary(self, folder: Path, run: str, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Nothing to add: metrics.json holds them."""


@dataclass(frozen=True)
class WandbTracker:
    """One wandb run per run folder, with the run's name as its id, so that a resumed job goes on in it.

    `mode` "offline" needs no account and no network; the key of "online" comes from WANDB_API_KEY.
    """

    project: str
    mode: Literal["offline", "online"]
    group: str | None = None
    tags: Sequence[str] = ()

    def open(self, folder: Path, run: str, config: Mapping[str, Any]) -> Any:
        """Lightning's wandb logger, without model files."""
        from pytorch_lightning.loggers import WandbLogger

        return WandbLogger(experiment=self._start(folder, run, config), log_model=False)

    def close(self) -> None:
        """Finish the wandb run, or the next job of a sweep would log into it."""
        import wandb

        wandb.finish()

    def summary(self, folder: Path, run: str, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """The final metrics in the run's summary."""
        started = self._start(folder, run, config)
        try:
            started.summary.update(dict(metrics))
        finally:
            started.finish()

    def _start(self, folder: Path, run: str, config: Mapping[str, Any]) -> Any:
        import wandb

        return wandb.init(
            project=self.project,
            id=run,
            name=run,
            group=self.group,
            tags=list(self.tags),
            config=dict(config),
            dir=folder,
            mode=self.mode,
            resume="allow" if self.mode == "online" else None,
            settings=wandb.Settings(console="off", silent=True, save_code=False, disable_git=True),
        )
