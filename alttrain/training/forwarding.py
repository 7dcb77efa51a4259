"""Lightning's logger that hands what is measured in training on to the run's tracking."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from alttrain.training.tracking import Tracking


class Forwarding(Logger):  # type: ignore[misc]
    """Losses by step; hyperparameters are the run's config, which the tracking has."""

    def __init__(self, tracking: Tracking) -> None:
        super().__init__()
        self._tracking = tracking

    @property
    def name(self) -> str:
        """The run's name."""
        return self._tracking.run.name

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    def log_hyperparams(self, *unused: Any, **ignored: Any) -> None:
        """Not asked for."""

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One row of logs/metrics.csv, without the epoch that Lightning adds."""
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if values:
            self._tracking.scalars(values, step or 0)
