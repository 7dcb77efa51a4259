"""Shared code of the launchers: a message for a missing package, and the end of child processes.

The processes that a sweep started on its own machine end with it, however it ends. Ray ends its own processes. Jobs on
Slurm keep running.
"""

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
"""For each option of conf/launcher, the package it needs and the extra that installs it."""

PARENT = "ALTTRAIN_PARENT"
"""Environment variable with a process id. The processes started by that process end when it ends."""
LOOK_S = 1.0
"""Seconds between two checks of a process, on systems without process file descriptors."""


def end_with_parent() -> None:
    """End this process, which may hold the lock of a run's folder, when the process in `PARENT` ends."""
    parent = int(os.environ.get(PARENT, os.getpid()))
    if parent != os.getpid():
        _end_with(parent)


@cache
def _end_with(process: int) -> None:
    """Watch a process from a thread, started once for all jobs of this process.

    A parent-death signal cannot replace it, since it is sent when the parent's thread ends, not its process.
    """

    def watch() -> None:
        _await_end(process)
        os._exit(1)  # like a kill: no result is lost, and the same command resumes

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _await_end(process: int) -> None:
    try:
        ended = select.poll()
        ended.register(os.pidfd_open(process), select.POLLIN)
        ended.poll()
        return
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # not available on this system
        pass
    while _is_there(process):
        time.sleep(LOOK_S)


def _is_there(process: int) -> bool:
    if os.name == "nt":  # on Windows, os.kill would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def absent(arguments: Sequence[str]) -> str:
    """Return what to install for the launcher in a command line; "" if nothing is missing."""
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
    except (ImportError, ValueError):  # its namespace package is missing too, or its import is blocked
        return False
