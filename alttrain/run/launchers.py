"""The launchers' packages: one that is not installed is told in one line, before Hydra looks for it."""

import importlib.util
from collections.abc import Sequence

PACKAGES = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "submitit": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "ray": ("ray", "ray"),
}
"""Each option of conf/launcher: the package it needs, and the extra that brings it."""


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
