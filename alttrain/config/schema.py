"""The closed root schema of a run, what a name may be, and the error that a user's mistake ends in.

Group nodes are open here: `binding` checks their `_target_`.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import CompactHydraException
from omegaconf import MISSING, OmegaConf

from alttrain.config.secrets import masked, refuse_environment

STAGES = ("check", "rewrite", "train", "generate", "judge", "report")
"""The stages of a run, in their order."""
TEXTS = ("all", "benign", "none")
"""Of which samples the report's page and the loggers get prompt and outputs: all, the harmless ones, or none."""
LONGEST = 200
"""Bytes of a name. Filesystems take 255, and a name gets a suffix or two."""


class RunError(CompactHydraException):
    """A run cannot go on; the message names the key or file, the value and the remedy. What looks like a key is masked.

    Hydra prints it without a stack trace.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))


@dataclass
class RunSchema:
    """Top-level keys of `conf/run.yaml`. A key that is not here is refused while the config composes.

    `page_texts` and `logger.texts` are one of `TEXTS`. The page is a file beside the run folders and loads nothing; it
    covers harmful texts until its reader asks for them, and with "benign" does not hold them at all.
    """

    stages: list[str] = field(default_factory=lambda: list(STAGES))
    seed: int = MISSING
    tag: str = MISSING
    keep_going: bool = MISSING
    output_dir: str = MISSING
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
    logger: dict[str, Any] = MISSING


def register() -> None:
    """Register the schema with Hydra under the name that the primary config starts with, and refuse `oc.env`."""
    OmegaConf.register_new_resolver("oc.env", refuse_environment, replace=True)
    ConfigStore.instance().store(name="run_schema", node=RunSchema)


def name_fault(name: object) -> str:
    """What is accepted, where a name that becomes a path is not a plain one; "" where it is.

    Runs, tags, backbones, protocols, benchmarks and methods have such names. A config or a run's folder may be a
    stranger's: its names must not lead outside their folder.
    """
    if not isinstance(name, str):
        return "accepted: a name as text"
    plain = all(letter.isalnum() or letter in "-_." for letter in name)
    if plain and name and name[0] != "." and ".." not in name and len(name.encode()) <= LONGEST:
        return ""
    return f"accepted as a folder name: letters, digits, '-', '_' and '.', not '.' in front or twice, {LONGEST} bytes"


def did_you_mean(word: object, accepted: Iterable[str]) -> str:
    """The accepted word nearest to a mistyped one, as the end of a message; "" where none is near."""
    close = difflib.get_close_matches(str(word), list(accepted), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
