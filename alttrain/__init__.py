"""alttrain: experiments that change the reasoning structure of large reasoning models to make them safe.

A Hydra config composes backbone, dataset, structure rewrite, training, generation and evaluation into one run whose
stages talk through files in the run's folder. See the README for the commands.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from alttrain.run.ask import RunModel

__version__ = "0.6.0"


def results(output_dir: str | Path = "outputs") -> "pd.DataFrame":
    """Return all numbers of an output folder as one tidy table: see `alttrain.report.results`."""
    from alttrain.report.results import results as read

    return read(output_dir)


def samples(output_dir: str | Path = "outputs") -> "pd.DataFrame":
    """Return every judged text of an output folder, its verdict and its thought's steps: see `alttrain.report`."""
    from alttrain.report.results import samples as read

    return read(output_dir)


def load(run: str | Path) -> "RunModel":
    """Return the model of a run's folder, to be asked prompts: see `alttrain.run.ask.RunModel.ask`."""
    from alttrain.run.ask import load as load_model

    return load_model(run)
