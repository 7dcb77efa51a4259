"""The console script `alttrain`: a Hydra app for conf/run.yaml, from the command line to the stages.

1. `main` prepares the process, and reads the command line
2. `_check` composes and checks it before Hydra runs anything: one message reports every fault. `--cfg job` is answered
   then, and Hydra's other queries go to Hydra. The stages' modules are imported when all this is done.
3. `_app` is what Hydra calls: with the one run (`alttrain.run.execution.execute`), or in a sweep with each job
   (`alttrain.run.sweep.run_job`)
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import hydra

# Hydra has no public parser of its flags, and our own parser could read a command line differently
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from alttrain.config import Fault, RunError, expand_arguments, preview, register
from alttrain.config.binding import MISSING
from alttrain.config.identity import SEARCH_PATH
from alttrain.config.overrides import CONFIG_MODULE, PRIMARY, SEARCHED, config_shown, search_path, searched_folders
from alttrain.config.secrets import mask_secrets
from alttrain.config.trust import take_trusted
from alttrain.records import cache_folder
from alttrain.run import console_script
from alttrain.training.distributed import is_follower, take_own_gpu
from hydra_plugins.alttrain_jobs import PARENT, absent, end_with_parent, of_hydra

if TYPE_CHECKING:
    from alttrain.run.assembly import Run
    from alttrain.run.sweep import Sweep

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
_checked: "Run | None" = None  # the run of this process's command line, after its check


@console_script()
def main() -> None:
    """Run a command line. Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted."""
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # by schedulers: end like Ctrl-C, which ends children
    compiled = {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "compiled")}  # torch's default is below /tmp
    for name, value in {**SETTINGS, **compiled}.items():
        os.environ.setdefault(name, value)
    swept = None
    try:
        sys.argv[1:] = expand_arguments(take_trusted(sys.argv[1:]))
        flags = _flags(sys.argv[1:])
        register()
        os.environ[SEARCH_PATH] = "".join(flags.search)
        overrides = [*flags.search, *flags.overrides]
        if not (flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion):
            swept = _check(overrides, flags.multirun)
            if swept is not None:
                _give_hydra_one_job(flags, swept)
            os.environ[PARENT] = str(os.getpid())
        elif _print_config(flags, overrides):
            return
        _app()
        shown = swept is None or is_follower() or swept.show(failed=False)
    except SystemExit:
        if swept is not None and not is_follower():
            swept.show(failed=True)
        raise
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise
    if not shown:
        sys.exit(1)


def _flags(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line as Hydra does. `search` is the override for all folders of the user's options.

    `overrides` are the other ones. Raises ValueError if Hydra would compose another config than the checked one, if a
    folder or package is missing, or if a user's option has the name of a packaged one, which Hydra would take.
    """
    flags = get_args_parser().parse_args(arguments)
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(flags, flag):
            raise ValueError(
                f"--{flag.replace('_', '-')} is not taken: alttrain composes conf/run.yaml; give your own options in a "
                "folder of groups, --config-dir=FOLDER"
            )
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        raise ValueError(f"--config-dir={flags.config_dir}: no such folder")
    given = [one for one in flags.overrides if one.startswith(SEARCHED)]
    if len(given) > 1:
        raise ValueError(f"{given[1]}: give one list of all folders; Hydra would read the first alone")
    flags.overrides = [one for one in flags.overrides if one not in given]
    addresses = [f"file://{Path(flags.config_dir).absolute()}"] if flags.config_dir else []
    addresses += searched_folders(given[0]) if given else []
    flags.search = search_path(addresses)
    for folder in (address.removeprefix("file://") for address in addresses):
        for file in sorted(Path(folder).rglob("*.yaml")):
            if resources.files(CONFIG_MODULE).joinpath(*file.relative_to(folder).parts).is_file():
                raise ValueError(f"{file}: alttrain has an option of this name and would take it; give yours another")
    if lacking := absent(flags.overrides):
        raise ValueError(lacking)
    return flags


def _refuse(faults: Sequence[Fault]) -> None:
    if faults:
        raise RunError("\n".join(["alttrain cannot run this:", *(f"  {fault}" for fault in faults)]))


def _print_config(flags: argparse.Namespace, overrides: list[str]) -> bool:
    """Show the config of a run or sweep, and return whether this answers the question that a command line asks.

    Hydra answers all others. It configures logging from its own node even then, so that node is checked. Raises
    RunError with the faults of a config that is to be shown, unless it only lacks values.
    """
    faults = preview(overrides)[0]
    wrong = bool(flags.cfg) and any(fault.value != MISSING for fault in faults)
    _refuse([fault for fault in faults if wrong or fault.key.startswith("hydra.")])
    if flags.cfg != "job" or flags.package:
        return False
    print(config_shown(overrides, flags.multirun, flags.resolve), end="")
    return True


def _check(overrides: list[str], multirun: bool) -> "Sweep | None":
    """Raise RunError with every fault of the command line and its configs, before anything loads.

    Returns the sweep, or None for a single run, which is kept for `_app`. Exits with the plan if a sweep only checks,
    and with the report if that is the only stage: it needs the output folder alone.
    """
    global _checked
    faults, configs = preview(overrides)
    _refuse(faults)
    from alttrain.run.execution import assemble_checked
    from alttrain.run.progress import log_to_console
    from alttrain.run.stages.check import all_ready
    from alttrain.run.status import PLAN
    from alttrain.run.sweep import plan
    from hydra_plugins.alttrain_jobs import JobSweeper  # here: Hydra loads the module anew as it looks for plugins

    log_to_console()
    if all({*config.stages} == {"report"} for config in configs):
        sys.exit(not (is_follower() or _show_report(configs[0])))
    if is_follower():
        take_own_gpu()
    if (swept := plan(overrides, multirun)) is not None:
        if swept.run.stages == ("check",):  # the plan has done it
            print((swept.run.output_dir / PLAN).with_suffix(".md").read_text(encoding="utf-8"))
            sys.exit(not all_ready(swept.runs))
        JobSweeper.jobs = [job.overrides for job in swept.jobs]
        return swept
    for config in configs:  # one, unless -m is missing, which Hydra reports
        _checked = assemble_checked(config)
    return None


def _give_hydra_one_job(flags: argparse.Namespace, swept: "Sweep") -> None:
    """Replace the overrides of sys.argv by those of the sweep's first job.

    Hydra would compose the command line without the keys that are swept. It sets up its launcher with that config.
    """
    words = [word for word in sys.argv[1:] if word not in flags.overrides or of_hydra(word)]
    sys.argv[1:] = [*words, *(word for word in swept.jobs[0].overrides if not of_hydra(word))]


@hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=PRIMARY)
def _app(config: DictConfig) -> None:
    from alttrain.run.execution import execute
    from alttrain.run.stages.check import all_ready
    from alttrain.run.sweep import run_job

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        if "Slurm" not in HydraConfig.get().launcher._target_:
            end_with_parent()
        run_job(config, HydraConfig.get().overrides.task)
        return
    try:
        run = execute(config, checked=_checked)
    except Exception as error:  # whose traceback Hydra would cut, and add its advice
        said = str(error) if isinstance(error, RunError) else mask_secrets(traceback.format_exc()).rstrip()
        print(said, file=sys.stderr)
        sys.exit(1)
    if run.stages == ("check",):
        sys.exit(not all_ready([(run, 1)]))
    if "report" in config.stages and not is_follower():
        _show_report(config)


def _show_report(config: DictConfig) -> bool:
    """Make and show the report over the runs of an output folder. Returns False if it cannot be made."""
    from alttrain.run.stages.report import show

    return show(Path(config.output_dir), config.page_texts)
