"""Sweeps: all jobs are checked and planned before the first starts, and run one after another or in parallel.

A failed job does not stop the others, unless keep_going=false. In that case a file of the sweep keeps its further jobs
from starting, on any machine (`stopped_file`).
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra import initialize_config_module
from omegaconf import DictConfig, OmegaConf

from alttrain.config import RunError, run_name
from alttrain.config.identity import SEARCH_PATH
from alttrain.config.overrides import (
    CONFIG_MODULE,
    compose_config,
    is_training_override,
    overrides_of,
    without_hydra,
)
from alttrain.config.secrets import mask_secrets
from alttrain.llm import forget_servers
from alttrain.records import Example, exclusive, read_utf8, write_text
from alttrain.run.assembly import NoThoughtError, Run, assemble
from alttrain.run.execution import execute
from alttrain.run.folder import evaluation_folder, refuse_links
from alttrain.run.plan import LISTED, Job, job_of, log_plan, write_plan
from alttrain.run.progress import bar
from alttrain.run.stages.check import MODEL_STAGES, check_light, check_sources
from alttrain.run.stages.needs import fit_hardware, refuse_full_disk, refuse_too_large
from alttrain.run.status import ENDED, Log, ended_jobs, read_status, statuses
from alttrain.training.distributed import is_follower
from hydra_plugins.alttrain_jobs import PARENT

log = logging.getLogger("alttrain")

ABOVE = "its output above says why"
SWEEP = "ALTTRAIN_SWEEP"  # environment variable that passes a hash of the sweep's jobs on to workers
Unseeded = tuple[str, ...]  # a job's overrides, without the seed
_hydra = partial(initialize_config_module, config_module=CONFIG_MODULE, version_base="1.3")


@dataclass(frozen=True)
class Sweep:
    """The planned jobs of a sweep, and their runs with the number of jobs that differ only in the seed."""

    jobs: tuple[Job, ...]
    runs: tuple[tuple[Run, int], ...]

    @property
    def run(self) -> Run:
        """The run of the first job."""
        return self.runs[0][0]

    def show(self, failed: bool) -> bool:
        """Make and show the report of all runs, if that is a stage. If the sweep failed, name runs that did not end.

        Returns False if only the report was to be made, and cannot be.
        """
        from alttrain.run.stages.report import show

        output_dir, own_runs = self.run.output_dir, {job.run for job in self.jobs}
        made = "report" not in self.run.stages or show(output_dir, self.run.config["page_texts"])
        states = {run: status.state for run, status in statuses(output_dir).items() if failed and run in own_runs}
        for state in ("failed", "stopped", "pending"):
            if names := [run for run in states if states[run] == state]:
                more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
                log.error("%-9s %d of %d: %s%s", state, len(names), len(own_runs), ", ".join(names[:LISTED]), more)
        if failed:
            log.error("          alttrain-status %s says why", output_dir)
        return made or not {*self.run.stages} <= {"check", "report"}


def _seeded(first: Run, its_config: DictConfig, overrides: Sequence[str]) -> Run:
    """Return the run of a job that differs only in the seed from the `first`. They share all that they are built of."""
    seed = [override for override in overrides if override.startswith("seed=")]
    config: Any = OmegaConf.merge(its_config, OmegaConf.from_dotlist(seed))
    name = run_name(config, first.changed.treatment)
    settings = first.config | {"seed": config.seed}
    return replace(first, name=name, folder=first.folder.parent / name, seed=config.seed, config=settings)


def plan(arguments: Sequence[str], multirun: bool) -> Sweep | None:
    """Check every job of a sweep, write the plan and show it. Returns None for a single run.

    A job of a run that does not think is left out if its interventions are on thoughts and each applies to another job.
    Raises RunError with the faults of all jobs, before anything runs.
    """
    forget_servers()
    with _hydra():
        batch = overrides_of(arguments, multirun)
    if not batch:
        return None
    os.environ[SWEEP] = _digest(" ".join(overrides) for overrides in batch)
    log.info("plan      checking %d jobs before the first starts", len(batch))
    swept_keys = {override.partition("=")[0] for overrides in batch for override in overrides}
    launcher = ""
    configs: dict[Unseeded, DictConfig] = {}  # of the first job with these overrides
    firsts: dict[Unseeded, Run] = {}  # its run
    rows: dict[str, Sequence[Example]] = {}  # to train on, by `Run.data`, each read once
    earlier_work = set[str]()  # of the jobs before
    jobs: list[Job] = []
    alike: dict[Unseeded, list[Run]] = {}  # their runs, with the hardware that each training needs
    runs: dict[str, list[Run]] = {}  # the same, by name
    thoughtless: list[tuple[list[str], NoThoughtError]] = []  # jobs that none of theirs applies to
    faults: dict[str, list[str]] = {}  # with the jobs that have each
    with bar("plan", len(batch)) as advance:
        for overrides in batch:
            advance(1)
            try:
                if (unseeded := _unseeded(overrides)) not in configs:
                    with _hydra():
                        config = compose_config(overrides, arguments)
                    own = {*map(str, config.hydra.sweeper.params or {})}
                    if lost := {key for key in own - swept_keys if not is_training_override(key)}:
                        keys = ", ".join(sorted(lost))
                        raise RunError(f"swept experiments do not sweep their own {keys}; give each its own command")
                    launcher = str(config.hydra.launcher._target_)
                    configs[unseeded] = without_hydra(config)
                if unseeded not in firsts:
                    firsts[unseeded] = assemble(configs[unseeded])
                run = _seeded(firsts[unseeded], configs[unseeded], overrides)
                here = launcher.endswith(("BasicLauncher", "JoblibLauncher"))  # others may use other machines
                check_light(run, rows.get(run.data), here)
                if run.data not in rows:
                    rows[run.data] = run.rows
                # on Slurm all jobs of a command have the same devices, whether they are still to train or not
                given, run = run.hardware, fit_hardware(run, rows[run.data], launcher.endswith("SlurmLauncher"))
                words = [*overrides, *run.hardware.overrides(given)]
                job = job_of(run, words, () if run.name in runs else rows[run.data], earlier_work)
                if job.state != "done":
                    run.hardware.check()
                    if here:
                        run.hardware.check_gpus()
                        refuse_too_large(run, rows[run.data], MODEL_STAGES & set(run.stages))
                jobs.append(job)
                alike.setdefault(unseeded, []).append(run)
                runs.setdefault(run.name, []).append(run)
            except NoThoughtError as error:
                thoughtless.append((overrides, error))
            except (RunError, ValueError, OSError) as error:
                for fault in getattr(error, "faults", (str(error),)):
                    faults.setdefault(fault, []).append(" ".join(overrides))
    applied = {each.intervention_name for first in firsts.values() for each in first.intervened_benchmarks}
    for overrides, fault in thoughtless:
        if not {*configs[_unseeded(overrides)].intervention} <= applied:  # some apply to no job at all
            faults.setdefault(str(fault), []).append(" ".join(overrides))
    unfinished = [job for job in jobs if job.state != "done"]
    devices = sorted({job.devices for job in unfinished})
    if launcher.endswith("SlurmLauncher") and len(devices) > 1:
        fault = f"launcher=slurm requests the same devices for all jobs, and these take {devices}; split the command"
        faults[fault] = [" ".join(job.overrides) for job in unfinished]
    for name, same_name in runs.items():
        try:
            _refuse_clash(same_name)
            for run in same_name:
                check_sources(run, runs)
        except RunError as error:
            faults.setdefault(str(error), []).extend(" ".join(job.overrides) for job in jobs if job.run == name)
    if faults:
        lines = [f"{fault}\n  in {len(faulty)} of {len(batch)} jobs: {faulty[0]}" for fault, faulty in faults.items()]
        raise RunError("\n".join(["this sweep cannot run:", *lines]).replace("\n", "\n  "))
    refuse_full_disk([run for same in alike.values() for run in same])
    swept = Sweep(tuple(jobs), tuple((same[-1], len(same)) for same in alike.values()))
    if not is_follower():
        output_dir = swept.run.output_dir
        refuse_links(output_dir / ".sweep")
        stopped_file(output_dir).unlink(missing_ok=True)
        shutil.rmtree(output_dir / ENDED, ignore_errors=True)
        write_plan(output_dir, jobs, [firsts[unseeded] for unseeded in alike], rows)
    log_plan(jobs)
    _log_untrained(arguments, jobs)
    for unseeded in dict.fromkeys(_unseeded(overrides) for overrides, _ in thoughtless):
        log.info("          left out, since it does not think: %s", " ".join(unseeded))
    return swept


def _log_untrained(arguments: Sequence[str], jobs: Sequence[Job]) -> None:
    """If a command line has overrides of a training, log which runs do not take them, since they train nothing."""
    for_training = [argument for argument in arguments if is_training_override(argument)]
    trained = {job.run for job in jobs if any(map(is_training_override, job.overrides))}
    untrained = [name for name in dict.fromkeys(job.run for job in jobs) if name not in trained]
    if for_training and untrained:
        log.info("          %s: not for %s, which trains nothing", " ".join(for_training), ", ".join(untrained))


def _unseeded(overrides: Sequence[str]) -> Unseeded:
    return tuple(override for override in overrides if not override.startswith("seed="))


def _refuse_clash(runs: Sequence[Run]) -> None:
    """Raise RunError unless jobs with the same run name share one training.

    No two may write one evaluation in different ways.
    """
    first, *others = runs
    if any(run.fingerprint != first.fingerprint or run.hardware != first.hardware for run in others):
        raise RunError(f"{len(runs)} jobs would be one run, {first.name}; give them tags")
    settings_of: dict[Path, Any] = {}
    for run in runs:
        for benchmark in run.all_benchmarks:
            folder = evaluation_folder(run, benchmark)
            settings = (run.evaluation_fingerprint(benchmark), run.protocol_hash(benchmark))
            if settings_of.setdefault(folder, settings) != settings:
                raise RunError(
                    f"{len(runs)} jobs would write one evaluation, {folder.name} of {first.name}; give them tags, "
                    "or other protocols"
                )


def stopped_file(output_dir: Path) -> Path:
    """Return the file that names the job with which this process's sweep stopped. Other sweeps have their own."""
    return output_dir / ".sweep" / f"stopped.{os.environ.get(SWEEP, '')}"


def _digest(words: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]


def run_job(config: DictConfig, overrides: Sequence[str]) -> None:
    """Run one job of a sweep, in a separate process if it needs several devices.

    Raises RunError if the job fails, or is not started because another one failed (keep_going=false). The error is
    logged.
    """
    name, output_dir, leads = run_name(config), Path(config.output_dir), not is_follower()
    stopped, ended = stopped_file(output_dir), output_dir / ENDED / f"{name}.{_digest(overrides)}"
    if not config.keep_going and stopped.exists():
        raise RunError(f"not started, because {read_utf8(stopped)} failed and keep_going=false")
    try:
        # jobs that share a training wait for the first of them, which trains
        with exclusive(output_dir / ".sweep" / name) if leads else nullcontext():
            if config.trainer.devices * config.trainer.nodes > 1 and set(config.stages) != {"report"}:
                _run_in_own_process(config, overrides)  # the report is made after all jobs
            else:
                execute(config, reports=False)
            if leads:
                write_text(ended, "")
                if failed := next((error for run, error, _ in ended_jobs(output_dir) if run == name and error), ""):
                    Log(output_dir / "runs" / name).ended(RunError(failed))
        return
    except Exception as error:  # a library's own, too: of a GPU's memory, of a kernel
        expected = isinstance(error, RunError | ValueError | OSError)
        failure = RunError(str(error) if expected else f"{type(error).__name__}: {error}")
        log.error("failed    %s: %s", name, ABOVE if isinstance(error, _ShownError) else failure)
        if not expected:
            log.error("%s", mask_secrets(traceback.format_exc()))
        if leads:
            write_text(ended, str(failure) or type(error).__name__)
            if not config.keep_going:
                write_text(stopped, name)
    raise failure  # alone: Hydra keeps it as long as the sweep runs, and the frames of `error` hold models


class _ShownError(RunError):
    """The error of a job in a process of its own, which has shown it."""


def _run_in_own_process(config: DictConfig, overrides: Sequence[str]) -> None:
    """Run a job on several devices as a separate command, since its leader restarts that command for each device."""
    other_overrides = [override for override in overrides if not override.startswith("stages=")]
    stages = ",".join(stage for stage in config.stages if stage != "report")
    command = [sys.executable, "-m", "alttrain", *filter(None, [os.environ.get(SEARCH_PATH)]), *other_overrides]
    command += ["hydra.mode=RUN", f"stages=[{stages}]"]
    folder = Path(config.output_dir) / "runs" / run_name(config)
    before, environment = read_status(folder), {**os.environ, PARENT: str(os.getpid())}
    # apart from the terminal, so that it gets each signal once
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.terminate()  # its training finishes the step and saves a checkpoint
            process.wait()  # if interrupted again, this process ends, and that one with it (`end_with_parent`)
            raise
    if process.returncode:
        after = read_status(folder)
        if after and after != before and after.error:
            raise _ShownError(after.error)
        raise RunError(f"its process ended with {process.returncode}; {ABOVE}")
