"""The closed root schema of a run, the rules for names, and the errors for a user's mistakes.

Group nodes are open here; `binding` checks their `_target_`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from omegaconf import MISSING, OmegaConf

from alttrain.config.secrets import mask_secrets, refuse_environment

STAGES = ("check", "rewrite", "train", "generate", "judge", "report")  # the stages of a run, in order
TEXTS = ("all", "benign", "none")  # which samples show their prompt and output on the page and in the loggers
LONGEST = 200  # bytes of a name; file systems allow 255, and suffixes are added


class RunError(CompactHydraException):
    """A run cannot continue. The message names the key or file, the value and the remedy; API keys in it are masked.

    Several `faults` are its lines. Hydra prints it without a stack trace.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = tuple(map(mask_secrets, faults))
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True)
class Fault:
    """One error in a config: its key, the value found there, and what is accepted."""

    key: str
    value: Any
    accepted: str

    def __str__(self) -> str:
        setting = f"{self.key}={self.value!r}" if self.value is not None else self.key
        return mask_secrets(f"{setting}: {self.accepted}")


@dataclass
class RunSchema:
    """Top-level keys of `conf/run.yaml`. An unknown key is refused when the config composes.

    `page_texts` and `logger.texts` are each one of `TEXTS`. The report's page is one file that loads nothing else. It
    covers harmful texts until the reader uncovers them; with "benign" it does not contain them.
    """

    stages: list[str] = field(default_factory=lambda: list(STAGES))
    seed: int = MISSING
    tag: str = MISSING
    keep_going: bool = MISSING
    output_dir: str = MISSING
    limit: int | None = MISSING
    data_dir: str | None = MISSING
    page_texts: str = MISSING
    backbone: dict[str, Any] = MISSING
    dataset: dict[str, Any] = MISSING
    method: dict[str, Any] = MISSING
    teacher: dict[str, Any] = MISSING
    rewrite: dict[str, Any] = MISSING
    adapter: dict[str, Any] = MISSING
    training: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    generation: dict[str, Any] = MISSING
    protocol: dict[str, Any] = MISSING
    evaluation: dict[str, Any] = MISSING
    intervention: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = MISSING


def register() -> None:
    """Register the schema and Hydra's plugins of alttrain, and disable the resolver `oc.env`."""
    plugins = Plugins.instance()
    from hydra_plugins.alttrain_jobs import JobSweeper, RayLauncher  # here: looking for plugins loads it anew

    for plugin in (JobSweeper, RayLauncher):
        plugins.register(plugin)  # Hydra does not find them in an editable install
    OmegaConf.register_new_resolver("oc.env", refuse_environment, replace=True)
    ConfigStore.instance().store(name="run_schema", node=RunSchema)


def trains(config: Mapping[str, Any]) -> bool:
    return bool(config["training"].get("_target_") != "alttrain.training.NoTraining")


def name_fault(name: object) -> str:
    """Return what is accepted, if `name` is not a valid folder name; "" if it is.

    This applies to runs, tags, backbones, protocols, benchmarks and methods. A config or run folder may come from a
    stranger, and its names must not lead outside their folder.
    """
    if not isinstance(name, str):
        return "accepted: a name as text"
    plain = all(letter.isalnum() or letter in "-_." for letter in name)
    if plain and name and name[0] != "." and ".." not in name and len(name.encode()) <= LONGEST:
        return ""
    return f"accepted as a folder name: letters, digits, '-', '_' and '.', not '.' in front or twice, {LONGEST} bytes"


def did_you_mean(word: object, accepted: Iterable[str]) -> str:
    """Return the accepted word closest to a mistyped one, as the end of a message; "" if none is close."""
    close = difflib.get_close_matches(str(word), list(accepted), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
