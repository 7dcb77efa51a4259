"""How Hydra runs jobs: the sweeper of the planned ones, a launcher over Ray (`launcher=ray`), and what launchers need.

Hydra accepts plugins only from the package `hydra_plugins`, and imports them all at every start. This module therefore
imports everything else where it is used. The processes that a sweep started on its own machine end with it, however it
ends. Ray ends its own processes; after a kill -9 two of its agents stay for a minute, in which they try to tell Ray's
head, which is gone, of the end (a fixed time limit in Ray 2.60). Jobs on Slurm keep running.
"""

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

EXTRAS = {"joblib": "joblib", "submitit": "submitit", "slurm": "submitit", "ray": "ray"}
"""The extra that installs what an option of conf/launcher needs."""
PARENT = "ALTTRAIN_PARENT"
"""Environment variable with a process id. The processes started by that process end when it ends."""
LOOK_S = 0.5
"""Seconds between two checks of that process."""


class JobSweeper(Sweeper):
    """Launches `jobs`, the overrides of each job that was checked and planned, at most `max_batch_size` at once."""

    jobs: ClassVar[Sequence[Sequence[str]]] = ()
    launcher: Launcher

    def __init__(self, max_batch_size: int | None, params: Mapping[str, Any] | None) -> None:
        self.max_batch_size = max_batch_size  # the plan has read `params`

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.keep_going = config.keep_going
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Launch the jobs and return their results, by batch. Exits with 1 if one failed; each job logged its error."""
        # Hydra itself adds what the command line sets in its node
        jobs = [[word for word in job if not of_hydra(word)] for job in self.jobs]
        size = self.max_batch_size or len(jobs)
        returns = [self._launch(jobs[start : start + size], start) for start in range(0, len(jobs), size)]
        if any(job.status is JobStatus.FAILED for batch in returns for job in batch):
            sys.exit(1)
        return returns

    def _launch(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Launch a batch, whose first job has the number `first`.

        If one of joblib's workers is killed, as by a system out of memory, the whole batch ends. Its jobs are then
        launched one at a time, so that only the one at fault fails. Exits with 1 at other errors of a launcher.
        """
        try:
            return self.launcher.launch(jobs, initial_job_idx=first)
        except Exception as error:
            from alttrain.config.secrets import mask_secrets

            print(mask_secrets(f"the launcher stopped: {type(error).__name__}: {error}"), file=sys.stderr)
            if type(error).__name__ != "TerminatedWorkerError" or not self.keep_going:
                sys.exit(1)
        if len(jobs) == 1:
            return [JobReturn(overrides=jobs[0], status=JobStatus.FAILED)]
        print(f"its {len(jobs)} jobs go on, one at a time", file=sys.stderr)
        return [job for number in range(len(jobs)) for job in self._launch(jobs[number : number + 1], first + number)]


SWEEPER = {"_target_": f"{__name__}.JobSweeper", "max_batch_size": None, "params": None}
RAY = {"_target_": f"{__name__}.RayLauncher", "address": None, "cpus": 1}
ConfigStore.instance().store(group="hydra/sweeper", name="jobs", node=SWEEPER, provider="alttrain")
ConfigStore.instance().store(group="hydra/launcher", name="alttrain_ray", node=RAY, provider="alttrain")


class RayLauncher(Launcher):
    """Runs each job of a batch as a Ray task, in its own process.

    A job requests `trainer.devices` GPUs, at most those of one machine of Ray's, waits until they are free, and sees no
    others (CUDA_VISIBLE_DEVICES). A worker takes the sweep's folder and settings, since those of a cluster that was
    started elsewhere are others. It ends with its job, which frees its memory.
    """

    def __init__(self, address: str | None, cpus: float) -> None:
        self.address, self.cpus = address, cpus

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return one result for each. The result of a failed job holds its error."""
        import ray

        from alttrain.config import RunError

        ray.init(address=self.address, include_dashboard=False, log_to_driver=True, ignore_reinit_error=True)
        tasks = []
        settings = {name: os.environ[name] for name in os.environ if name.startswith("ALTTRAIN_") and name != PARENT}
        most_gpus = max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        for overrides in job_overrides:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            gpus = min(config.trainer.devices, most_gpus) if config.trainer.accelerator != "cpu" else 0
            task = ray.remote(num_cpus=self.cpus, num_gpus=gpus, max_calls=1, max_retries=0)(work)
            tasks.append((overrides, config, task.remote(list(overrides), os.getcwd(), settings)))
        returns = []
        for overrides, config, future in tasks:
            job_return = JobReturn(overrides=list(overrides), cfg=config, hydra_cfg=config)
            try:
                error = ray.get(future)
            except ray.exceptions.RayError as lost:
                error = f"the worker was lost ({type(lost).__name__})"
                print(f"failed    {' '.join(overrides)}: {error}", file=sys.stderr)  # the worker could not say it
            job_return.status = JobStatus.FAILED if error else JobStatus.COMPLETED
            job_return.return_value = RunError(error) if error else None
            returns.append(job_return)
        ray.shutdown()
        return returns


def work(overrides: list[str], folder: str, settings: Mapping[str, str]) -> str:
    """Run one job in the worker, in the sweep's folder and with its environment variables.

    Returns its error message, or "" if it succeeds.
    """
    from hydra import compose, initialize_config_module

    from alttrain.config import register
    from alttrain.config.identity import SEARCH_PATH
    from alttrain.config.overrides import CONFIG_MODULE, PRIMARY
    from alttrain.run.sweep import run_job

    os.environ.update(settings)
    search = filter(None, [os.environ.get(SEARCH_PATH)])
    register()
    try:
        os.chdir(folder)
        with initialize_config_module(config_module=CONFIG_MODULE, version_base="1.3"):
            config = compose(config_name=PRIMARY, overrides=[*search, *overrides])
        run_job(config, overrides)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def is_worker() -> bool:
    """Return whether this process is a worker of a sweep, whose lines appear among those of other jobs."""
    return int(os.environ.get(PARENT, os.getpid())) != os.getpid()


def end_with_parent() -> None:
    """End this process, which may hold the lock of a run's folder, when the process in `PARENT` ends."""
    if is_worker():
        _end_with(int(os.environ[PARENT]))


@cache
def _end_with(process: int) -> None:
    """Watch a process from a thread, started once for all jobs of this process.

    A parent-death signal cannot replace it, since it is sent when the parent's thread ends, not its process.
    """

    def watch() -> None:
        import psutil

        with suppress(psutil.NoSuchProcess):
            watched = psutil.Process(process)  # an id that another process has taken since is not it
            while watched.is_running() and watched.status() != psutil.STATUS_ZOMBIE:
                time.sleep(LOOK_S)
        os._exit(1)  # like a kill: no result is lost, and the same command resumes

    threading.Thread(target=watch, daemon=True, name="parent").start()


def of_hydra(override: str) -> bool:
    """Return whether an override is of Hydra's own node."""
    return override.lstrip("+~").startswith("hydra")


def absent(arguments: Sequence[str]) -> str:
    """Return what to install for the launcher in a command line; "" if nothing is missing."""
    chosen = [argument.removeprefix("launcher=") for argument in arguments if argument.startswith("launcher=")]
    for launcher, extra in ((name, EXTRAS[name]) for name in chosen if name in EXTRAS):
        found = None
        with suppress(ImportError):  # its import is blocked
            found = importlib.util.find_spec("ray" if extra == "ray" else f"hydra_plugins.hydra_{extra}_launcher")
        if found is None:
            return (
                f"launcher={launcher} needs a package that is not installed: pip install 'alttrain[{extra}]', or "
                "leave launcher out to run the jobs one after another"
            )
    return ""
