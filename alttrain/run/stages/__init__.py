"""The stages of a run. Each is a function of the run and its session, and skips finished work."""

from alttrain.run.stages.check import check
from alttrain.run.stages.generate import generate
from alttrain.run.stages.judge import judge
from alttrain.run.stages.report import report
from alttrain.run.stages.rewrite import rewrite
from alttrain.run.stages.train import train

__all__ = ["check", "generate", "judge", "report", "rewrite", "train"]
