"""The console script `alttrain`: a Hydra app for conf/run.yaml.

The command line is composed and checked before Hydra runs anything. One message then reports every fault, and nothing
heavy has been imported. `--cfg` and Hydra's other queries go to Hydra.
"""

import argparse
import hashlib
import importlib
import json
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import hydra

# Hydra has no public parser of its flags, and our own parser could read a command line differently
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from alttrain.backbone.source import cache_folder
from alttrain.config import STAGES, Fault, RunError, preview, register, run_name, spelt_out
from alttrain.config.overrides import CONFIG_MODULE, PRIMARY
from alttrain.config.secrets import masked
from alttrain.config.targets import take_trusted
from alttrain.records import full_disk
from alttrain.training.distributed import Leader, follow, follows, verify
from hydra_plugins.alttrain_jobs import PARENT, absent, beside_others, end_with_parent

if TYPE_CHECKING:
    from alttrain.run.assembly import Run
    from alttrain.run.sweep import Sweep

log = logging.getLogger("alttrain")

INTERRUPTED = 130
SETTINGS = {
    # How long an OpenMP thread spins before it sleeps. GNU's default is 30 times this: 3 % faster on an idle machine,
    # but several times slower if another process uses a core (docs/performance.md).
    "GOMP_SPINCOUNT": "10000",
    # Number of matrix shapes for which oneDNN and torch cache compiled code. With the defaults of 1,024 the caches grow
    # by hundreds of megabytes over thousands of prompts, because each batch of prompts has another length.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
}
"""Defaults of environment variables, which the libraries read when torch loads."""
HELP = """alttrain: experiments on the reasoning structure and safety of large reasoning models, from config to table

  alttrain experiment=demo                        No-train against AltTrain on a laptop's CPU, without a hub or a key
  alttrain method=alttrain backbone=r1_qwen_7b    one run: check, rewrite, train, generate, judge, report
  alttrain -m method=no_train,alttrain seed=0,1   a sweep; again, it runs only what is missing
  alttrain 'stages=[report]'                      the tables of all runs in output_dir

GROUP=OPTION chooses a part, KEY=VALUE sets anything in it, -m sweeps over comma-separated values.

  quick=true           a first look: limit=20 tag=quick, twenty prompts of each benchmark
  --cfg job            the config that a command would run, and with it every key
  --info defaults      where each part of it is from
  --config-dir FOLDER  your own options, beside those below
  trusted=[PACKAGE]    what a config may build besides alttrain's own classes
  --hydra-help         all flags
"""

_checked: "Run | None" = None
"""The run of this process's command line, after its check."""


def main() -> None:
    """Entry point of the console script. Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(help_text())
        return
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # by schedulers: end like Ctrl-C, which ends children
    compiled = {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "compiled")}  # torch's default is below /tmp
    for name, value in {**SETTINGS, **compiled}.items():
        os.environ.setdefault(name, value)
    swept = None
    try:
        sys.argv[1:] = spelt_out(take_trusted(sys.argv[1:]))
        flags = _flags(sys.argv[1:])
        register()
        searched = [f"hydra.searchpath=[file://{Path(flags.config_dir).absolute()}]"] if flags.config_dir else []
        overrides = [*searched, *flags.overrides]
        if not (flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion):
            swept = _check(overrides, flags.multirun)
            os.environ[PARENT] = str(os.getpid())
        elif _shows(flags, overrides):
            return
        _app()
        if swept is not None and not follows():
            swept.show(failed=False)
    except (HydraException, ValueError, OSError) as error:
        print(RunError(str(error)), file=sys.stderr)
        sys.exit(2)
    except SystemExit:
        if swept is not None and not follows():
            swept.show(failed=True)
        raise
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        exec("")  # without it, CPython ends by SIGINT if the interrupt came while a string was executed
        sys.exit(INTERRUPTED)


def _flags(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line as Hydra does.

    Raises ValueError if Hydra would compose another config than the checked one, or a launcher's package is missing.
    """
    flags = get_args_parser().parse_args(arguments)
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(flags, flag):
            raise ValueError(
                f"--{flag.replace('_', '-')} is not taken: alttrain composes conf/run.yaml; give your own options in a "
                "folder of groups, --config-dir=FOLDER"
            )
    if lacking := absent(flags.overrides):
        raise ValueError(lacking)
    return flags


def _refuse(found: Sequence[Fault]) -> None:
    if found:
        raise RunError("\n".join(["alttrain cannot run this:", *(f"  {fault}" for fault in found)]))


def _shows(flags: argparse.Namespace, overrides: list[str]) -> bool:
    """Show the config of a sweep, and return whether this answers the question that a command line asks.

    Hydra answers all others. It configures logging from its own node even then, so that node is checked.
    """
    _refuse([fault for fault in preview(overrides)[0] if fault.key.startswith("hydra.")])
    if flags.cfg != "job" or flags.package:
        return False
    from alttrain.run.sweep import config_shown

    if shown := config_shown(overrides, flags.multirun, flags.resolve):
        print(shown)
    return bool(shown)


def _check(overrides: list[str], multirun: bool) -> "Sweep | None":
    """Raise RunError with every fault of the command line and its configs, before anything loads.

    Returns the sweep, or None for a single run, which is kept for `_app`. Exits with the plan if a sweep only checks.
    """
    global _checked
    found, configs = preview(overrides)
    _refuse(found)
    from alttrain.run.assembly import assemble
    from alttrain.run.plan import job_of, totals
    from alttrain.run.stages.check import check_light, ready
    from alttrain.run.stages.needs import fitted
    from alttrain.run.status import PLAN
    from alttrain.run.sweep import job_state, plan
    from hydra_plugins.alttrain_jobs import JobSweeper  # here: Hydra loads the module anew as it looks for plugins

    _log_to_console()
    if (swept := plan(overrides, multirun)) is not None:
        if swept.run.stages == ("check",):  # the plan has done it
            print((swept.run.output_dir / PLAN).with_suffix(".md").read_text(encoding="utf-8"))
            sys.exit(not ready(swept.runs))
        JobSweeper.jobs = [job.overrides for job in swept.jobs]
        return swept
    for config in configs:  # one, unless -m is missing, which Hydra reports
        check_light(_checked := fitted(assemble(config)))
        verify(*_processes(_checked))
        if {"check", "train", "generate"} & set(_checked.stages) and not follows():
            job = job_of(_checked, (), job_state(_checked), _checked.rows)
            log.info("plan      %s", totals([job]))
    return None


@hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=PRIMARY)
def _app(config: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from alttrain.run.sweep import run_job, searched

        if "Slurm" not in HydraConfig.get().launcher._target_:
            end_with_parent()
        run_job(config, [*searched(HydraConfig.get()), *HydraConfig.get().overrides.task])
        return
    try:
        run = execute(config, checked=_checked)
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except Exception:
        print(masked(traceback.format_exc()), file=sys.stderr, end="")  # Hydra would cut it, and add its advice
        sys.exit(1)
    if run.stages == ("check",):
        from alttrain.run.stages.check import ready

        sys.exit(not ready([(run, 1)]))
    if "report" in config.stages and not follows():
        from alttrain.run.stages.report import show

        show(Path(config.output_dir), config.page_texts)


def execute(config: DictConfig, reports: bool = True, checked: "Run | None" = None) -> "Run":
    """Run the stages of one composed config. Raises RunError if the run cannot continue.

    `checked` is the config's run, if it was already assembled and checked, before Hydra knew all config groups.
    """
    from alttrain.run.assembly import assemble
    from alttrain.run.session import Session
    from alttrain.run.stages.check import check_light, check_protocol
    from alttrain.run.stages.needs import fitted

    _log_to_console(f"{run_name(config)}  " if beside_others() else "")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    started = time.monotonic()
    run, check = (checked, check_protocol) if checked else (assemble(config), check_light)
    job = hashlib.sha256(json.dumps(run.config, sort_keys=True).encode()).hexdigest()
    try:
        run = checked or fitted(run)
        devices, nodes = _processes(run)
        verify(devices, nodes)
        if "train" in run.stages:
            run.hardware.check_gpus()
        if follows():
            check(run)
            follow(job, nodes, lambda: _stage("train", run, Session(run)))
            return run
        with Leader(job, devices, nodes).until_the_end() as leader:
            check(run)
            log.info("run       %s", run.name)
            for key, (published, own) in run.changed.treatment.items():
                log.info("changed   %s: %r, here %r", key, published, own)
            _stages(run, reports, leader)
        log.info("done      %s in %.0f s", run.name, time.monotonic() - started)
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error
    except Exception as error:  # a library's own error on a full disk
        if isinstance(error, RunError) or (disk := full_disk(run.folder)) is None:
            raise
        raise RunError(f"{run.folder} cannot be written: the disk mounted at {disk} is full ({error})") from error
    return run


def _processes(run: "Run") -> tuple[int, int]:
    """Return (devices, nodes): the processes that the run needs. Stages other than `train` need one process."""
    return (run.hardware.devices, run.hardware.nodes) if "train" in run.stages else (1, 1)


def _stages(run: "Run", reports: bool, leader: "Leader") -> None:
    """Run the stages in order, with the run's folder locked."""
    from alttrain.run.folder import open_folder
    from alttrain.run.session import Session
    from alttrain.run.stages.check import bound
    from alttrain.run.stages.generate import missing
    from alttrain.run.status import Log, locked

    session = Session(run)
    trains = run.training.trains and not (run.folder / "train.json").exists()
    if {"check", "rewrite", "generate"} & set(run.stages) and (
        trains or any(missing(run, benchmark) for benchmark in run.evaluated)
    ):
        if "check" in run.stages:
            _stage("check", run, session)
        else:
            bound(run, session)
    due = [stage for stage in STAGES[1:] if stage in run.stages and (reports or stage != "report")]
    if set(due) <= {"report"}:
        for stage in due:
            _stage(stage, run, session)
        return
    open_folder(run)
    with locked(run.folder), _logged_to(run.folder / "run.log"), Log(run.folder) as status:
        for stage in due:
            status.stage(stage)
            if stage == "train":
                leader.trains()
            _stage(stage, run, session)


def _stage(name: str, run: "Run", session: object) -> None:
    getattr(importlib.import_module(f"alttrain.run.stages.{name}"), name)(run, session)


def _log_to_console(label: str = "") -> None:
    """Show alttrain's lines and the warnings of libraries, each behind a label."""
    root = logging.getLogger()
    if not any(handler.name == "console" for handler in root.handlers):
        console = logging.StreamHandler(sys.stderr)
        console.name = "console"
        console.setLevel(logging.INFO)
        root.handlers = [console]
        root.setLevel(logging.WARNING)  # of libraries, show only warnings and errors
        logging.getLogger("alttrain").setLevel(logging.DEBUG)
    for handler in root.handlers:
        if handler.name == "console":
            handler.setFormatter(logging.Formatter(f"{label.replace('%', '%%')}%(message)s"))


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except Exception:
        log.debug("%s", masked(traceback.format_exc()))
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):  # closing flushes the buffer, which fails again
            handler.close()


class _RunLog(logging.FileHandler):
    """A handler that removes itself, with one warning, when it cannot write, as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if not isinstance(error := sys.exc_info()[1], OSError):
            super().handleError(record)
            return
        root = logging.getLogger()
        root.handlers = [handler for handler in root.handlers if handler is not self]
        log.warning("this is not logged any more in %s: %s", self.baseFilename, error)


def help_text() -> str:
    """Return the help, with the options of every config group."""
    root = Path(str(resources.files("alttrain.conf")))
    options: dict[str, list[str]] = {}
    for path in sorted(root.glob("*/**/*.yaml")):
        options.setdefault(path.parent.relative_to(root).as_posix(), []).append(path.stem)
    width = max(map(len, options)) + 2
    lines = [
        fill(f"  {group:<{width}}{' '.join(options[group])}", 118, subsequent_indent=" " * (width + 2))
        for group in sorted(options)
    ]
    keys = f"stages ({', '.join(STAGES)}), seed, tag, output_dir, data_dir"
    return "\n".join([HELP, f"keys outside the groups: {keys}", "", *lines])
