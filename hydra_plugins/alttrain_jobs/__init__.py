"""A Hydra sweeper whose jobs are those that alttrain checked and planned: see `alttrain.run.sweep.overrides_of`.

Keys of a training change only the jobs that train, and equal jobs run once. Its settings are those of Hydra's own.

Hydra accepts sweepers only from the package `hydra_plugins`, and imports them all at every start. This module
therefore imports everything else where it is used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class JobSweeper(Sweeper):
    """Launches the jobs, at most `max_batch_size` at once."""

    launcher: Launcher

    def __init__(self, max_batch_size: int | None, params: Mapping[str, Any] | None) -> None:
        self.max_batch_size = max_batch_size  # `params` are read from the config, with the command line

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Build the launcher. `config` has the command line's keys of Hydra, which `sweep` does not get."""
        self.hydra = list(config.hydra.overrides.hydra)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Launch the jobs and return their results, by batch. Raises the error of the first job that failed."""
        from alttrain.run.sweep import overrides_of

        found = overrides_of([*self.hydra, *arguments], multirun=True)
        jobs = [[one for one in job if not one.lstrip("+~").startswith("hydra")] for job in found]  # Hydra adds them
        returns = []
        size = self.max_batch_size or len(jobs)
        for start in range(0, len(jobs), size):
            returns.append(self.launcher.launch(jobs[start : start + size], initial_job_idx=start))
            for job in returns[-1]:
                _ = job.return_value  # raises the job's error
        return returns
