"""A Hydra sweeper whose jobs are those that alttrain checked and planned: see `alttrain.run.sweep.overrides_of`.

It differs from Hydra's own in two ways: keys of a training change only the jobs that train, and equal jobs run once.

Hydra accepts sweepers only from the package `hydra_plugins`, and imports them all at every start. This module
therefore imports everything else where it is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class JobsConfig:
    """The sweeper's settings, which are those of Hydra's basic sweeper."""

    _target_: str = "hydra_plugins.alttrain_jobs.JobSweeper"
    max_batch_size: int | None = None
    params: dict[str, Any] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="jobs", node=JobsConfig, provider="alttrain")


class JobSweeper(Sweeper):
    """Launches the jobs, at most `max_batch_size` at once."""

    launcher: Launcher

    def __init__(self, max_batch_size: int | None, params: Mapping[str, Any] | None) -> None:
        self.max_batch_size = max_batch_size  # `params` are read from the config, with the command line

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Build the launcher."""
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Launch the jobs and return their results, by batch. Raises the error of the first job that failed."""
        from alttrain.run.sweep import overrides_of

        jobs, returns = overrides_of(arguments, multirun=True), []
        size = self.max_batch_size or len(jobs)
        for start in range(0, len(jobs), size):
            returns.append(self.launcher.launch(jobs[start : start + size], initial_job_idx=start))
            for job in returns[-1]:
                _ = job.return_value  # raises the job's error
        return returns
