"""Wrappers that keep Lightning's loggers from stopping or delaying a run."""

import csv
import io
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from alttrain.config.secrets import mask_secrets
from alttrain.records import LOSS, read_losses

log = logging.getLogger(__name__)

PATIENCE_S = 30.0  # seconds that a run waits for a logger to close, and that wandb waits for its server


class GuardedLogger(Logger):  # type: ignore[misc]
    """Runs another logger's calls in a background thread, in order, so that it cannot stop or delay a run.

    `open` is called in that thread. If a call raises, a warning is logged and all further calls are dropped.
    """

    name = version = ""

    def __init__(
        self, label: str, open: Callable[[], AbstractContextManager[Any]], patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__()
        self._label, self._open, self._patience_s = label, open, patience_s
        self._calls: queue.SimpleQueue[Callable[[Any], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"logger {label}", daemon=True)  # it may hang
        self._thread.start()

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._calls.put(lambda logger: logger.log_metrics(metrics, step))

    def log_hyperparams(self, *unused: Any, **ignored: Any) -> None:
        """Do nothing: the config is logged when the logger is opened."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table, as a table in wandb and trackio and as a CSV file in MLflow."""

        def call(logger: Any) -> None:
            if isinstance(logger, WandbLogger | TrackioLogger):
                logger.log_table(f"samples/{name}", list(columns), [list(row) for row in rows])
            elif isinstance(logger, MLFlowLogger):
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows([columns, *rows])
                logger.experiment.log_text(logger.run_id, text.getvalue(), f"samples/{name}.csv")

        self._calls.put(call)

    def close(self) -> None:
        """Close the logger after the queued calls. Warns if that takes longer than `patience_s` seconds."""
        self._calls.put(None)
        self._thread.join(self._patience_s)
        if self._thread.is_alive():
            log.warning("logger    %s does not end; the run goes on without waiting for it", self._label)

    def _work(self) -> None:
        try:
            with self._open() as logger:
                while (call := self._calls.get()) is not None:
                    call(logger)
        except Exception as error:  # a logger can raise anything
            message = mask_secrets(" ".join(str(error).split())) or type(error).__name__
            log.warning("logger    %s failed, and the run goes on without it: %s", self._label, message)


class TrackioLogger:
    """A trackio run with the method that Lightning's loggers have."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.run.log(dict(metrics), step=step)

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Log a table, at a step of its own."""
        import trackio

        self.run.log({name: trackio.Table(columns=columns, data=rows)})


class ContinuedCSVLogger(CSVLogger):  # type: ignore[misc]
    """A CSVLogger that keeps the earlier rows when a training resumes. Lightning's own deletes metrics.csv.

    The earlier file is moved aside until its rows are written again, so that a full disk or a kill loses none.
    """

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row. The first call drops earlier rows from its own step on."""
        first_call, path = self._experiment is None, Path(self.log_dir) / "metrics.csv"
        backup = path.with_name("metrics.before.csv")
        if first_call and path.exists() and not backup.exists():
            os.replace(path, backup)
        if first_call and backup.exists():
            path.unlink(missing_ok=True)
            self.experiment.metrics = [row for row_step, row in read_losses(backup) if row_step < (step or 0)]
        super().log_metrics(metrics, step)
        if first_call:
            backup.unlink(missing_ok=True)


class ContinuedTensorBoardLogger(TensorBoardLogger):  # type: ignore[misc]
    """Replaces the steps that an interrupted training did not save. Lightning's own logger shows them twice."""

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at a step. A training's first row replaces the later ones; an evaluation's replaces nothing."""
        if self._experiment is None and LOSS in metrics:
            self._kwargs["purge_step"] = step
        super().log_metrics(metrics, step)
