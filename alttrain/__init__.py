"""alttrain: experiments that change the reasoning structure of large reasoning models to make them safe.

A Hydra config composes backbone, dataset, structure rewrite, training, generation and evaluation into one run whose
stages talk through files in the run's folder. See the README for the commands.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from alttrain.run.ask import RunModel

__version__ = "0.1.0"


def results(output_dir: str | Path = "outputs") -> "pd.DataFrame":
    """All numbers of an output folder as one tidy table: see `alttrain.report.results`."""
    from alttrain.report.results import results as read

    return read(output_dir)


def samples(output_dir: str | Path = "outputs") -> "pd.DataFrame":
    """Every judged text of an output folder with its verdict and the steps of its thought: see `alttrain.report`."""
    from alttrain.report.results import samples as read

    return read(output_dir)


def load(run: str | Path, untrained: bool = False) -> "RunModel":
    """The model of a run's folder, to be asked prompts: see `alttrain.run.ask.RunModel.ask`."""
    from alttrain.run.ask import load as loaded

    return loaded(run, untrained)
