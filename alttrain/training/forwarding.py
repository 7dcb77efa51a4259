"""Lightning's loggers of a training: the run's logs/metrics.csv, and what hands each row on to the run's tracking."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from alttrain.records import append, read_losses, write_text
from alttrain.training.tracking import Tracking


class _Rows(Logger):  # type: ignore[misc]
    """A logger of one run that takes rows alone: hyperparameters are the run's config, which is on file."""

    name = version = ""

    def log_hyperparams(self, *unused: Any, **ignored: Any) -> None:
        """Not asked for."""


class CsvLog(_Rows):
    """logs/metrics.csv. Lightning's own begins anew when a training goes on, and loses the steps before.

    The columns are those of the first row. Steps that were logged and not saved are trained again, and replaced.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] = []

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; at the first one, what an earlier process wrote is kept as far as its steps are before it."""
        row = {**metrics, "step": step or 0}
        if not self._columns:
            self._columns = sorted(row)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, "".join([",".join(self._columns) + "\n", *self._before(row["step"])]))
        line = io.StringIO(newline="")
        csv.DictWriter(line, self._columns, extrasaction="ignore", lineterminator="\n").writerow(row)
        append(self.path, line.getvalue().encode())

    def _before(self, step: float) -> list[str]:
        if not self.path.exists():
            return []
        rows = [row for before, row in read_losses(self.path) if before < step]
        return [",".join(row.get(column) or "" for column in self._columns) + "\n" for row in rows]


class Forwarding(_Rows):
    """Hands losses on to the tracking."""

    def __init__(self, tracking: Tracking) -> None:
        super().__init__()
        self._tracking = tracking

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One row of logs/metrics.csv, without the epoch that Lightning adds."""
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if values:
            self._tracking.scalars(values, step or 0)
