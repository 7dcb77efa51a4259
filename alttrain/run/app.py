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
from typing import TYPE_CHECKING, NoReturn

import hydra

# Hydra has no public parser of its flags, and our own parser could read a command line differently
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from alttrain.backbone.source import cache_folder
from alttrain.config import STAGES, Fault, RunError, preview, register
from alttrain.config.overrides import CONFIG_MODULE, PRIMARY, hydra_preview
from alttrain.config.targets import take_trusted
from alttrain.records import full_disk
from alttrain.run.launchers import PARENT, absent, end_with_parent
from alttrain.training.distributed import Leader, follow, follows, verify

if TYPE_CHECKING:
    from alttrain.run.assembly import Run
    from alttrain.run.sweep import Sweep

log = logging.getLogger("alttrain")

INTERRUPTED = 130
HELP = """alttrain: experiments on the reasoning structure and safety of large reasoning models, from config to table

  alttrain experiment=demo                        No-train against AltTrain on a laptop's CPU, without a hub or a key
  alttrain method=alttrain backbone=r1_qwen_7b    one run: check, rewrite, train, generate, judge, report
  alttrain -m method=no_train,alttrain seed=0,1   a sweep; again, it runs only what is missing
  alttrain 'stages=[report]'                      the tables of all runs in output_dir

GROUP=OPTION chooses a part, KEY=VALUE sets anything in it, -m sweeps over comma-separated values.

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
    register()
    signal.signal(signal.SIGTERM, _interrupt)  # sent by schedulers: end like Ctrl-C, which stops child processes
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))  # torch's default is below /tmp
    swept = None
    try:
        sys.argv[1:] = take_trusted(sys.argv[1:])
        flags = _flags(sys.argv[1:])
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    try:
        searched = [f"hydra.searchpath=[file://{Path(flags.config_dir).absolute()}]"] if flags.config_dir else []
        asked = ([*searched, *flags.overrides], flags.multirun)
        if not (flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion):
            swept = _refuse_faults(*asked)
            os.environ[PARENT] = str(os.getpid())
        elif found := hydra_preview(asked[0]):
            _refuse(found)
        elif flags.cfg == "job" and not flags.package:
            from alttrain.run.sweep import config_shown

            if shown := config_shown(*asked, flags.resolve):
                print(shown)
                return
        _app()
    except HydraException as error:  # from a query such as --info, which Hydra answers without its error handling
        print(f"alttrain cannot run this: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit:
        if swept is not None and not follows():
            swept.show_failed()
        raise
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        exec("")  # without it, CPython ends by SIGINT if the interrupt came while a string was executed
        sys.exit(INTERRUPTED)


def _interrupt(*unused: object) -> None:
    raise KeyboardInterrupt


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
    from hydra_plugins.alttrain_jobs import JobSweeper

    Plugins.instance().register(JobSweeper)  # Hydra does not find it in an editable install
    if any(override.startswith("launcher=ray") for override in flags.overrides):
        from hydra_plugins.alttrain_ray import RayLauncher

        Plugins.instance().register(RayLauncher)
    return flags


def _refuse(found: Sequence[Fault]) -> NoReturn:
    print("\n".join(["alttrain cannot run this:", *(f"  {fault}" for fault in found)]), file=sys.stderr)
    sys.exit(2)


def _refuse_faults(overrides: list[str], multirun: bool) -> "Sweep | None":
    """Exit with every fault of the command line and its configs, before anything loads.

    Returns the sweep, or None for a single run, which is kept for `_app`. Exits with the plan if a sweep only checks.
    """
    global _checked
    found, configs = preview(overrides)
    if found:
        _refuse(found)
    from alttrain.run.assembly import assemble
    from alttrain.run.stages.check import check_light
    from alttrain.run.stages.needs import fitted
    from alttrain.run.status import PLAN
    from alttrain.run.sweep import plan

    _log_to_console()
    try:
        if (swept := plan(overrides, multirun)) is not None:
            if swept.checked:
                print((swept.output_dir / PLAN).with_suffix(".md").read_text(encoding="utf-8"))
                sys.exit(0)
            return swept
        for config in configs:  # one, unless -m is missing, which Hydra reports
            check_light(_checked := fitted(assemble(config)))
            verify(*_processes(_checked))
    except (RunError, ValueError, OSError) as error:
        print(RunError(str(error)), file=sys.stderr)
        sys.exit(2)
    return None


@hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=PRIMARY)
def _app(config: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from alttrain.run.sweep import run_job, searched

        if "Slurm" not in HydraConfig.get().launcher._target_:
            end_with_parent()
        run_job(config, [*searched(HydraConfig.get()), *HydraConfig.get().overrides.task])
        return
    execute(config, checked=_checked)
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

    _log_to_console()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    started = time.monotonic()
    run, check = (checked, check_protocol) if checked else (assemble(config), check_light)
    job = hashlib.sha256(json.dumps(run.config, sort_keys=True).encode()).hexdigest()
    try:
        run = checked or fitted(run)
        devices, nodes = _processes(run)
        verify(devices, nodes)
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
        log.debug("%s", traceback.format_exc())
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
    from alttrain.run.status import Log, locked

    session = Session(run)
    if {"check", "rewrite", "generate"} & set(run.stages) and _has_work(run):
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


def _has_work(run: "Run") -> bool:
    """Return whether a stage that loads the backbone has work left. Does not import torch."""
    from alttrain.run.stages.generate import missing

    trains = run.training.trains and not (run.folder / "train.json").exists()
    return trains or any(missing(run, benchmark) for benchmark in run.benchmarks)


def _log_to_console() -> None:
    root = logging.getLogger()
    if not any(handler.name == "console" for handler in root.handlers):
        console = _Fallible(sys.stderr)
        console.name = "console"
        console.setLevel(logging.INFO)
        console.setFormatter(logging.Formatter("%(message)s"))
        root.handlers = [console]
        root.setLevel(logging.WARNING)  # of libraries, show only warnings and errors
        logging.getLogger("alttrain").setLevel(logging.DEBUG)


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


class _Fallible(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that removes itself, with one warning, when it cannot write, as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if not isinstance(error := sys.exc_info()[1], OSError):
            super().handleError(record)
            return
        root = logging.getLogger()
        root.handlers = [handler for handler in root.handlers if handler is not self]
        log.warning("this is not logged any more in %s: %s", getattr(self, "baseFilename", "the console"), error)


class _File(_Fallible, logging.FileHandler):
    def close(self) -> None:
        with suppress(OSError):  # closing flushes the buffer, which fails again
            super().close()


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
