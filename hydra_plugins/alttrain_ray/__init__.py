"""A Hydra launcher over Ray (`launcher=ray`): each job leases the GPUs it needs and runs in its own process.

Ray assigns the GPUs: a job requests `trainer.devices` of them if the machine has any, waits until they are free, and
sees no others (CUDA_VISIBLE_DEVICES). A worker ends with its job, which frees its memory.

Hydra accepts launchers only from the package `hydra_plugins`, and imports them all at every start. This module
therefore imports everything else where it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class RayConfig:
    """The launcher's settings; see conf/launcher/ray.yaml."""

    _target_: str = "hydra_plugins.alttrain_ray.RayLauncher"
    address: str | None = None
    cpus: float = 1


ConfigStore.instance().store(group="hydra/launcher", name="alttrain_ray", node=RayConfig, provider="alttrain")


class RayLauncher(Launcher):
    """Runs each job of a batch as a Ray task."""

    def __init__(self, address: str | None, cpus: float) -> None:
        self.address, self.cpus = address, cpus

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return one result for each. The result of a failed job holds its error."""
        import ray

        from alttrain.config import RunError
        from alttrain.run.sweep import searched

        ray.init(address=self.address, include_dashboard=False, log_to_driver=True, ignore_reinit_error=True)
        waiting, search = [], searched(self.config.hydra)
        for overrides in job_overrides:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            task = ray.remote(num_cpus=self.cpus, num_gpus=gpus_of(config), max_calls=1, max_retries=0)(work)
            waiting.append((overrides, config, task.remote([*search, *overrides])))
        returns = []
        for overrides, config, future in waiting:
            made = JobReturn(overrides=list(overrides), cfg=config, hydra_cfg=config)
            try:
                error = ray.get(future)
            except ray.exceptions.RayError as lost:
                error = f"the worker was lost ({type(lost).__name__})"
            made.status = JobStatus.FAILED if error else JobStatus.COMPLETED
            made.return_value = RunError(error) if error else None
            returns.append(made)
        ray.shutdown()
        return returns


def gpus_of(config: DictConfig) -> int:
    """Return the number of GPUs that a job leases: `trainer.devices`, or 0 on the CPU."""
    from alttrain.backbone.device import has_gpu_driver

    return int(config.trainer.devices) if config.trainer.accelerator != "cpu" and has_gpu_driver() else 0


def work(overrides: list[str]) -> str:
    """Run one job in the worker. Returns its error message, or "" if it succeeds."""
    from hydra import compose, initialize_config_module

    from alttrain.config import register
    from alttrain.config.overrides import CONFIG_MODULE, PRIMARY
    from alttrain.run.sweep import run_job

    register()
    try:
        with initialize_config_module(config_module=CONFIG_MODULE, version_base="1.3"):
            config = compose(config_name=PRIMARY, overrides=overrides)
        run_job(config, overrides)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""
