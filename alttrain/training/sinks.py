"""What takes a run's numbers: wandb, TensorBoard and MLflow behind the same five calls.

A sink may fail and may be slow: `tracking` makes its calls in a thread and goes on without it. It is opened by its
first call, and goes on in the run of the same id where there is one.
"""

import csv
import io
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from alttrain.training.trackers import MlflowTracker, Table, Tracked, WandbTracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

MOST_PARAMETERS, LONGEST_PARAMETER = 100, 500
"""What MLflow takes in one call, and of one value."""


class Sink(Protocol):
    """Where the numbers of one run go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """What was measured at an optimizer step."""

    def summary(self, metrics: Mapping[str, float]) -> None:
        """The run's final metrics, by benchmark/metric."""

    def table(self, benchmark: str, table: Table) -> None:
        """A benchmark's samples."""

    def trained(self, folder: Path) -> None:
        """What was trained is saved in this folder."""

    def close(self) -> None:
        """All was said."""


class WandbSink:
    """A wandb run, whose id is the run's."""

    def __init__(self, tracker: WandbTracker, run: Tracked) -> None:
        self.tracker, self.run = tracker, run
        self._opened: Any = None

    def _wandb(self) -> Any:
        import wandb

        if self._opened is None:
            try:
                self._opened = self._init(self.tracker.mode)
            except Exception as error:  # of many kinds: no network, a refused key
                if self.tracker.mode == "offline":
                    raise
                log.warning("tracker   wandb cannot be reached, so this run is logged offline: %s", one_line(error))
                wandb.teardown()  # or the id would be in use
                self._opened = self._init("offline")
            self._opened.define_metric("loss", step_metric="step")
        return self._opened

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
            init_timeout=self.tracker.patience_s,
            finish_timeout=self.tracker.patience_s,
            reinit="create_new",  # jobs of a sweep may follow each other in one process
        )
        return wandb.init(
            project=self.tracker.project,
            id=self.run.id,
            name=self.run.name,
            group=self.tracker.group or self.run.sweep or None,
            tags=list(self.tracker.tags),
            config=dict(self.run.config),
            dir=self.run.folder,
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=settings,
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Rows of the history; a resumed job's steps may stand before the last ones, so the step is a value."""
        self._wandb().log({**values, "step": step})

    def summary(self, metrics: Mapping[str, float]) -> None:
        """The run's summary."""
        self._wandb().summary.update(dict(metrics))

    def table(self, benchmark: str, table: Table) -> None:
        """A wandb table."""
        import wandb

        rows = [list(row) for row in table.rows]
        made = wandb.Table(columns=list(table.columns), data=rows, allow_mixed_types=True)
        self._wandb().log({f"samples/{benchmark}": made})

    def trained(self, folder: Path) -> None:
        """The folder as an artifact, where the config asks for it."""
        if self.tracker.adapter:
            import wandb

            artifact = wandb.Artifact(self.run.id, type="model")
            for path in sorted(folder.iterdir()):  # add_dir would print
                artifact.add_file(str(path))
            self._wandb().log_artifact(artifact)

    def close(self) -> None:
        """Finish the run, or wandb would call it crashed."""
        if self._opened is not None:
            self._opened.finish()


class TensorBoardSink:
    """Event files in the run's folder. Steps that an interrupted training did not save are replaced."""

    def __init__(self, run: Tracked) -> None:
        self.run = run
        self._opened: SummaryWriter | None = None

    def _writer(self, step: int | None = None) -> "SummaryWriter":
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.run.folder / "tensorboard"
            new = not folder.exists()
            self._opened = SummaryWriter(str(folder), purge_step=step)
            if new:
                config = json.dumps(self.run.config, indent=2)
                self._opened.add_text("config", "".join(f"    {line}\n" for line in config.splitlines()))
        return self._opened

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of the curves."""
        for name, value in values.items():
            self._writer(step).add_scalar(name, value, step)

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Scalars of a single point."""
        for name, value in metrics.items():
            self._writer().add_scalar(name, value, 0)

    def table(self, benchmark: str, table: Table) -> None:
        """TensorBoard has no tables."""

    def trained(self, folder: Path) -> None:
        """TensorBoard has no artifacts."""

    def close(self) -> None:
        """Write what is held back."""
        if self._opened is not None:
            self._opened.close()


class MlflowSink:
    """An MLflow run. Its server gives ids; ours is a tag by which the run is found again."""

    def __init__(self, tracker: MlflowTracker, run: Tracked) -> None:
        self.tracker, self.run = tracker, run
        self._opened: tuple[Any, str] | None = None

    def _run(self) -> tuple[Any, str]:
        """MLflow's client and the id of the run there."""
        if self._opened is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 would have a database
            from mlflow.entities import Param
            from mlflow.tracking import MlflowClient

            client = MlflowClient(self.tracker.uri)
            name = self.tracker.experiment or self.run.sweep or "alttrain"
            known = client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else client.create_experiment(name)
            found = client.search_runs([experiment], filter_string=f"tags.alttrain_id = '{self.run.id}'", max_results=1)
            run = found[0] if found else client.create_run(experiment, tags=self._tags(), run_name=self.run.name)
            client.log_dict(run.info.run_id, dict(self.run.config), "config.json")
            settings = {key: value for key, value in _flat(self.run.config) if key not in run.data.params and value}
            parameters = [Param(key, value[:LONGEST_PARAMETER]) for key, value in settings.items()]
            for start in range(0, len(parameters), MOST_PARAMETERS):
                client.log_batch(run.info.run_id, params=parameters[start : start + MOST_PARAMETERS])
            client.update_run(run.info.run_id, status="RUNNING")
            self._opened = client, run.info.run_id
        return self._opened

    def _tags(self) -> dict[str, str]:
        return {"alttrain_id": self.run.id, "sweep": self.run.sweep}

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        client, run = self._run()
        now = round(time.time() * 1000)
        client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of the metrics' histories."""
        self._log(values, step)

    def summary(self, metrics: Mapping[str, float]) -> None:
        """Metrics of a single point."""
        self._log(metrics, 0)

    def table(self, benchmark: str, table: Table) -> None:
        """A CSV among the run's artifacts."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([table.columns, *table.rows])
        client, run = self._run()
        client.log_text(run, text.getvalue(), f"samples/{benchmark}.csv")

    def trained(self, folder: Path) -> None:
        """The folder among the run's artifacts, where the config asks for it."""
        if self.tracker.adapter:
            client, run = self._run()
            client.log_artifacts(run, str(folder), folder.name)

    def close(self) -> None:
        """End the run."""
        if self._opened is not None:
            client, run = self._opened
            client.set_terminated(run)


def one_line(error: BaseException) -> str:
    """An error's message in one line, with its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _flat(config: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys and their values as text."""
    if isinstance(config, Mapping):
        return [pair for name, child in config.items() for pair in _flat(child, f"{prefix}{name}.")]
    return [(prefix.removesuffix("."), "" if config is None else str(config))]
