"""Hydra callbacks: what happens once for a whole sweep."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from alttrain.training.ranks import follows


class SweepReport(Callback):
    """Shows the table once, when all jobs of a sweep are done."""

    def on_multirun_end(self, config: DictConfig, **unused: Any) -> None:
        """Print the report if the sweep's stages include it."""
        if "report" in config.stages and not follows():
            from alttrain.run.stages.report import show

            show(Path(config.output_dir), config.page_texts)
