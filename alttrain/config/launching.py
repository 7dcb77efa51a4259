"""What a config may say to Hydra itself: its launcher, sweeper, callbacks and logging are code that Hydra builds.

Checked on each composed config before Hydra sees one, and as it is written: nothing of it is resolved.
"""

import re
from collections.abc import Collection, Iterator
from importlib import resources
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alttrain.config.targets import trusted

CALLBACK = "alttrain.run.sweep.SweepReport"
PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
LOGGING = ("job_logging", "hydra_logging")
BUILT = ("callbacks.", "launcher.", "sweeper.")
GIVEN = re.compile(r"job\.env_set\..+|launcher\.(setup|python|srun_args|additional_parameters|address)(\.|$).*")
"""What runs commands, changes the environment, or sends jobs elsewhere."""
PLACED = {"output_subdir": None, "run.dir": ".", "sweep.dir": "${output_dir}/.sweep", "sweep.subdir": "."}
"""Where Hydra writes files of its own, as conf/run.yaml has it: elsewhere they could replace others."""
KEY = re.compile(r"\$\{(\w[\w.]*)\}")


def hydra_faults(config: DictConfig, given: Collection[str]) -> Iterator[tuple[str, Any, str]]:
    """Key, value and what is accepted, for each thing wrong in the `hydra` node of a composed config.

    `given` are the keys of the command line, which may say what a file may not.
    """
    plain: Any = OmegaConf.to_container(config.hydra, resolve=False)
    for name in LOGGING:
        options = [file for file in (resources.files("hydra.conf") / "hydra" / name).iterdir() if ".yaml" in file.name]
        if plain.pop(name) not in [yaml.safe_load(file.read_text(encoding="utf-8")) for file in options]:
            names = ", ".join(sorted(file.name.removesuffix(".yaml") for file in options))
            yield f"hydra.{name}", None, f"a log's handlers are code that runs; accepted: hydra/{name}={names}"
    for key, value in _leaves(plain, ""):
        own, part = f"hydra.{key}", key.rpartition(".")[2]
        if key.startswith(BUILT) and "${" in str(value) and not _of_plain_values(config, str(value)):
            yield own, value, "accepted here: plain values, and ${key} of one"
        elif part == "_target_" and not _known(key, str(value)):
            package = str(value).partition(".")[0]
            yield own, value, f"Hydra would build it; if you know what it runs: trusted=[{package}] on the command line"
        elif ((GIVEN.fullmatch(key) and value is not None) or (key in PLACED and value != PLACED[key])) and re.sub(
            r"(\.\d+)+$", "", own
        ) not in given:
            yield own, value, "this is for the command line, and not for a file; give it there, or leave it out"


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _of_plain_values(config: DictConfig, text: str) -> bool:
    """Whether a text interpolates keys alone, and none of them holds a node, which could have a target."""
    try:
        found = [OmegaConf.select(config, key) for key in KEY.findall(text)]
    except OmegaConfBaseException:
        return False
    return "${" not in KEY.sub("", text) and not any(OmegaConf.is_config(one) for one in found)


def _known(key: str, target: str) -> bool:
    if key in ("launcher._target_", "sweeper._target_"):
        return target.startswith(PLUGINS)
    mine = target.startswith(tuple(f"{package}." for package in trusted()))
    return re.fullmatch(r"callbacks\.[^.]+\._target_", key) is not None and (target == CALLBACK or mine)
