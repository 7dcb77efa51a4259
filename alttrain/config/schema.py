"""The closed root schema of a run. Group nodes are open here: their `_target_` is checked by `binding`."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from alttrain.config.secrets import refuse_environment

STAGES = ("check", "rewrite", "train", "generate", "judge", "report")
"""The stages of a run, in the only order they make sense in."""
TEXTS = ("all", "benign", "none")
"""Of which samples the report's page and the loggers get prompt and outputs: all, the harmless ones, or none."""


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
    """Make the schema known to Hydra under the name that the primary config starts with, and refuse `oc.env`."""
    OmegaConf.register_new_resolver("oc.env", refuse_environment, replace=True)
    ConfigStore.instance().store(name="run_schema", node=RunSchema)
