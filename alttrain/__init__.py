"""alttrain: experiments that change the reasoning structure of large reasoning models to make them safe.

A Hydra config composes backbone, dataset, structure rewrite, training, generation and evaluation into one run whose
stages talk through files in the run's folder. See the README for the commands.
"""

__version__ = "0.1.0"
