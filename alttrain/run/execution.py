"""Run the stages of one composed config, in this process, or together with others on several devices."""

import hashlib
import importlib
import json
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial

from omegaconf import DictConfig

from alttrain.config import STAGES, RunError, run_name
from alttrain.llm import forget_servers
from alttrain.records import full_disk
from alttrain.run.assembly import Run, assemble
from alttrain.run.folder import check_belongs, open_folder
from alttrain.run.plan import job_of, totals
from alttrain.run.progress import log_to_console, log_to_file
from alttrain.run.session import Session
from alttrain.run.stages.check import check_light, check_prompts, check_protocol, check_sources
from alttrain.run.stages.generate import incomplete_benchmarks
from alttrain.run.stages.needs import fit_hardware
from alttrain.run.status import Log, lock_folder, read_status
from alttrain.training.distributed import follow, is_follower, lead, verify
from hydra_plugins.alttrain_jobs import is_worker

log = logging.getLogger("alttrain")


def assemble_checked(config: DictConfig) -> Run:
    """Return the run of a config after its light check, and log what it will take. Raises RunError with all faults."""
    check_light(run := fit_hardware(assemble(config)))
    check_sources(run)
    verify(*_processes(run))
    if {"check", "train", "generate"} & set(run.stages) and not is_follower():
        log.info("plan      %s", totals([job_of(run, (), run.rows)]))
    return run


def execute(config: DictConfig, reports: bool = True, checked: Run | None = None) -> Run:
    """Run the stages of one composed config. Raises RunError if the run cannot continue.

    `checked` is the config's run, if it was already assembled and checked, before Hydra knew all config groups.
    """
    forget_servers()
    log_to_console(f"{run_name(config)}  " if is_worker() else "")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    started = time.monotonic()
    # the plan of a sweep has looked at this machine's memory, which other jobs may use by now
    run, check = (checked, check_protocol) if checked else (assemble(config), partial(check_light, here=False))
    job = hashlib.sha256(json.dumps(run.config, sort_keys=True).encode()).hexdigest()
    try:
        run = checked or fit_hardware(run)
        devices, nodes = _processes(run)
        verify(devices, nodes)
        if "train" in run.stages:
            run.hardware.check_gpus()
        if is_follower():
            check(run)
            try:
                follow(job, nodes, lambda: _stage("train", run, Session(run)))
            except Exception as error:  # the leader is killed then, and cannot say why
                if (status := read_status(run.folder)) and status.state == "running":
                    Log(run.folder, status).ended(error)
                raise
            return run
        with lead(job, devices, nodes) as tell_to_train:
            check(run)
            log.info("run       %s", run.name)
            for key, (published, value) in run.changed.treatment.items():
                log.info("changed   %s: %r, here %r", key, published, value)
            _stages(run, reports, tell_to_train)
        log.info("done      %s in %.0f s", run.name, time.monotonic() - started)
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error
    except Exception as error:  # a library's own error on a full disk
        if isinstance(error, RunError) or (disk := full_disk(run.folder)) is None:
            raise
        raise RunError(f"{run.folder} cannot be written: the disk mounted at {disk} is full ({error})") from error
    return run


def _processes(run: Run) -> tuple[int, int]:
    """Return (devices, nodes): the processes that the run needs. Stages other than `train` need one process."""
    return (run.hardware.devices, run.hardware.nodes) if "train" in run.stages else (1, 1)


def _stages(run: Run, reports: bool, tell_to_train: Callable[[], None]) -> None:
    """Run the stages in order, with the run's folder locked."""
    session = Session(run)
    if {"check", "rewrite", "generate"} & set(run.stages) and (run.needs_training or incomplete_benchmarks(run)):
        if "check" in run.stages:
            _stage("check", run, session)
        else:
            check_prompts(run, session)
    stages = [stage for stage in STAGES[1:] if stage in run.stages and (reports or stage != "report")]
    if set(stages) <= {"report"}:
        for stage in stages:
            _stage(stage, run, session)
        return
    with lock_folder(run.folder):
        check_belongs(run)  # again: another process may have made the folder since
        open_folder(run)
        with log_to_file(run.folder / "run.log"), Log(run.folder) as status:
            for stage in stages:
                status.stage(stage)
                if stage == "train":
                    tell_to_train()
                _stage(stage, run, session)


def _stage(name: str, run: Run, session: Session) -> None:
    getattr(importlib.import_module(f"alttrain.run.stages.{name}"), name)(run, session)
