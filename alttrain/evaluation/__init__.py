"""Benchmarks, judges, graders, structure adherence and statistics.

This package does not import torch. A judge that needs a model receives it from the run (`JudgeContext.scorer`).
"""

from alttrain.evaluation.adherence import Adherence
from alttrain.evaluation.grading import Choice, ShortAnswer
from alttrain.evaluation.interventions import Intervention
from alttrain.evaluation.judges import Judge, JudgeContext, RefusalJudge
from alttrain.evaluation.metrics import Metric, Summary
from alttrain.evaluation.protocol import Benchmark, Protocol, protocol_hash
