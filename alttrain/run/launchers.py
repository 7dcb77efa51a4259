"""What all launchers share: a message for a package that is not installed, before Hydra looks for it, and the end of
the processes that a sweep started on its machine, however it ends. Ray ends its own; jobs on Slurm go on."""

import importlib.util
import os
import select
import threading
import time
from collections.abc import Sequence
from functools import cache

PACKAGES = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "submitit": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "ray": ("ray", "ray"),
}
"""Each option of conf/launcher: the package it needs, and the extra that brings it."""

PARENT = "ALTTRAIN_PARENT"
"""The environment variable with a process's number: the processes that it started end when it ends."""
LOOK_S = 1.0
"""Seconds between two looks at a process, on systems without process file descriptors."""


def end_with_parent() -> None:
    """End this process, which holds the lock of a run's folder, once the one that `PARENT` names is gone."""
    parent = int(os.environ.get(PARENT, os.getpid()))
    if parent != os.getpid():
        _end_with(parent)


@cache
def _end_with(process: int) -> None:
    """Watch a process, once for all jobs of this one. A signal at the parent's death would come at its thread's."""

    def watch() -> None:
        _await_end(process)
        os._exit(1)  # as a kill: nothing is lost, and the same command goes on

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _await_end(process: int) -> None:
    try:
        ended = select.poll()
        ended.register(os.pidfd_open(process), select.POLLIN)
        ended.poll()
        return
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # not on this system
        pass
    while _is_there(process):
        time.sleep(LOOK_S)


def _is_there(process: int) -> bool:
    if os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def absent(arguments: Sequence[str]) -> str:
    """What to install for the launcher that a command line asks for; nothing where nothing is lacking."""
    for argument in arguments:
        key, _, launcher = argument.partition("=")
        if key == "launcher" and launcher in PACKAGES and not _found(PACKAGES[launcher][0]):
            extra = PACKAGES[launcher][1]
            return (
                f"launcher={launcher} needs a package that is not installed: pip install 'alttrain[{extra}]', or leave "
                "launcher out to run the jobs one after another"
            )
    return ""


def _found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # its namespace is not there either, or it was blocked
        return False
