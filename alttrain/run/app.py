"""The console script `alttrain`: a Hydra app over conf/run.yaml.

Before Hydra runs anything, the command line is composed and checked here, so that every fault is told in one message
and nothing heavy is imported for it. `--help`, `--cfg` and Hydra's other questions go straight to Hydra.
"""

import hashlib
import json
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from alttrain.backbone.source import cache_folder
from alttrain.config import STAGES, Fault, RunError, preview, register
from alttrain.config.overrides import hydra_preview
from alttrain.config.targets import take_trusted
from alttrain.records import full_disk
from alttrain.run.launchers import PARENT, absent, end_with_parent
from alttrain.training.distributed import Leader, follow, follows, verify

if TYPE_CHECKING:
    from alttrain.run.assembly import Run
    from alttrain.run.sweep import Sweep

log = logging.getLogger("alttrain")

QUESTIONS = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
INTERRUPTED = 130


def main() -> None:
    """What the console script does. Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        from alttrain.run.help import help_text

        print(help_text())
        return
    end_with_parent()
    register()
    try:
        sys.argv[1:] = _allowed(sys.argv[1:])
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, _interrupt)  # a scheduler's: end as Ctrl-C does, so that nothing started stays
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))  # torch's own is below /tmp
    swept = None
    if lacking := absent(sys.argv[1:]):
        print(lacking, file=sys.stderr)
        sys.exit(2)
    if any(argument.startswith("launcher=ray") for argument in sys.argv):
        from alttrain.run.ray_launcher import register as register_ray

        register_ray()
    try:
        if not any(argument.split("=")[0] in QUESTIONS for argument in sys.argv[1:]):
            swept = _refuse_faults(*_asked(sys.argv[1:]))
            os.environ[PARENT] = str(os.getpid())
        elif found := hydra_preview(_asked(sys.argv[1:])[0]):
            _refuse(found)
        elif shown := _sweep_shown(sys.argv[1:]):
            print(shown)
            return
        _app()
    except HydraException as error:  # of a question, which Hydra answers outside its own error handling
        print(f"alttrain cannot run this: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit:
        if swept is not None and not follows():
            swept.show_failed()
        raise
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _allowed(arguments: list[str]) -> list[str]:
    """The arguments for Hydra. Raises ValueError where it would compose another config than what is checked here."""
    rest = take_trusted(arguments)
    flags = get_args_parser().parse_args(rest)
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(flags, flag):
            raise ValueError(
                f"--{flag.replace('_', '-')} is not taken: alttrain composes conf/run.yaml; give your own options in a "
                "folder of groups, --config-dir=FOLDER"
            )
    return rest


def _interrupt(*unused: object) -> None:
    raise KeyboardInterrupt


def _asked(arguments: list[str]) -> tuple[list[str], bool]:
    """The overrides of a command line, a --config-dir among them, and whether it asks for a sweep."""
    flags = get_args_parser().parse_args(arguments)
    own = [f"hydra.searchpath=[file://{Path(flags.config_dir).absolute()}]"] if flags.config_dir else []
    return [*own, *flags.overrides], flags.multirun


def _sweep_shown(arguments: list[str]) -> str:
    """What to print where `--cfg job` is asked of a sweep: Hydra would refuse it, or show a config that no job has."""
    from alttrain.run.sweep import config_shown

    flags = get_args_parser().parse_args(arguments)
    asked = flags.cfg == "job" and not flags.package
    return config_shown(*_asked(arguments), flags.resolve) if asked else ""


def _refuse(found: Sequence[Fault]) -> NoReturn:
    print("\n".join(["alttrain cannot run this:", *(f"  {fault}" for fault in found)]), file=sys.stderr)
    sys.exit(2)


def _refuse_faults(overrides: list[str], multirun: bool) -> "Sweep | None":
    """Exit with every fault of the command line and of the configs it composes, before anything loads or is written.

    Returns the sweep, where it is one.
    """
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
        if (swept := plan(overrides, multirun)) is not None and swept.checked:
            print((swept.output_dir / PLAN).with_suffix(".md").read_text(encoding="utf-8"))
            sys.exit(0)
        if swept is not None:
            return swept
        for config in configs:
            check_light(run := fitted(assemble(config)))
            verify(*_processes(run))
    except (RunError, ValueError, OSError) as error:
        print(RunError(str(error)), file=sys.stderr)
        sys.exit(2)
    return None


@hydra.main(version_base="1.3", config_path="pkg://alttrain.conf", config_name="run")
def _app(config: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from alttrain.run.sweep import run_job, searched

        if "Slurm" not in HydraConfig.get().launcher._target_:
            end_with_parent()
        run_job(config, [*searched(HydraConfig.get()), *HydraConfig.get().overrides.task])
        return
    execute(config)
    if "report" in config.stages and not follows():
        from alttrain.run.stages.report import show

        show(Path(config.output_dir), config.page_texts)


def execute(config: DictConfig, reports: bool = True) -> "Run":
    """Run the stages of one composed config. Raises RunError where the run cannot go on."""
    from alttrain.run.assembly import assemble
    from alttrain.run.session import Session
    from alttrain.run.stages.check import check_light
    from alttrain.run.stages.needs import fitted

    _log_to_console()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    started = time.monotonic()
    run = assemble(config)
    job = hashlib.sha256(json.dumps(run.config, sort_keys=True).encode()).hexdigest()
    try:
        run = fitted(run)
        devices, nodes = _processes(run)
        verify(devices, nodes)
        if follows():
            check_light(run)
            follow(job, nodes, lambda: _stage("train", run, Session(run)))
            return run
        with Leader(job, devices, nodes).until_the_end() as leader:
            check_light(run)
            log.info("run       %s", run.name)
            for key, (published, own) in run.changed.treatment.items():
                log.info("changed   %s: %r, here %r", key, published, own)
            _stages(run, reports, leader)
        log.info("done      %s in %.0f s", run.name, time.monotonic() - started)
    except (ValueError, OSError) as error:
        log.debug("%s", traceback.format_exc())
        raise RunError(str(error)) from error
    except Exception as error:  # a library's own of writing a file
        if isinstance(error, RunError) or (disk := full_disk(run.folder)) is None:
            raise
        raise RunError(f"{run.folder} cannot be written: the disk mounted at {disk} is full ({error})") from error
    return run


def _processes(run: "Run") -> tuple[int, int]:
    """How many processes on how many nodes this run takes: all other stages are one process's."""
    return (run.hardware.devices, run.hardware.nodes) if "train" in run.stages else (1, 1)


def _stages(run: "Run", reports: bool, leader: "Leader") -> None:
    """Run the stages in their order, in a folder that is this process's alone."""
    from alttrain.run.folder import open_folder
    from alttrain.run.session import Session
    from alttrain.run.stages.check import bound
    from alttrain.run.status import Log, locked

    session = Session(run)
    if "check" in run.stages and _has_work(run):
        _stage("check", run, session)
    elif {"rewrite", "generate"} & set(run.stages) and _has_work(run):
        bound(run, session)
    due = [stage for stage in STAGES[1:] if stage in run.stages and (reports or stage != "report")]
    if set(due) <= {"report"}:
        for stage in due:
            _stage(stage, run, session)
        return
    open_folder(run)
    with locked(run.folder):
        handler, status = _log_to_file(run.folder / "run.log"), Log(run.folder)
        ended: BaseException | None = None
        try:
            for stage in due:
                status.stage(stage)
                if stage == "train":
                    leader.trains()
                _stage(stage, run, session)
        except BaseException as error:
            ended = error
            raise
        finally:
            status.ended(ended)
            logging.getLogger().removeHandler(handler)
            handler.close()


def _stage(name: str, run: "Run", session: object) -> None:
    from alttrain.run import stages

    getattr(stages, name)(run, session)


def _has_work(run: "Run") -> bool:
    """Whether a stage that loads the backbone has something left to do; it needs no torch to tell."""
    from alttrain.run.stages.generate import missing

    trains = run.training.trains and not (run.folder / "train.json").exists()
    return trains or any(missing(run, benchmark) for benchmark in run.benchmarks)


def _log_to_console() -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, _Console) for handler in root.handlers):
        root.handlers = [_Console()]
        root.setLevel(logging.WARNING)  # libraries speak when something is wrong
        logging.getLogger("alttrain").setLevel(logging.DEBUG)


class _Fallible(logging.StreamHandler):  # type: ignore[type-arg]
    """Where nothing can be written any more, as on a full disk, nothing more is, and nobody need hear of it twice."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if not isinstance(error := sys.exc_info()[1], OSError):
            super().handleError(record)
            return
        root = logging.getLogger()
        root.handlers = [handler for handler in root.handlers if handler is not self]
        log.warning("this is not logged any more in %s: %s", getattr(self, "baseFilename", "the console"), error)


class _File(_Fallible, logging.FileHandler):
    def close(self) -> None:
        with suppress(OSError):  # what could not be written is still in its buffer
            super().close()


class _Console(_Fallible):
    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.INFO)
        self.setFormatter(logging.Formatter("%(message)s"))


def _log_to_file(path: Path) -> logging.Handler:
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler
