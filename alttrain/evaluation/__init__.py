"""Benchmarks, judges, graders, structure adherence and statistics.

This package does not import torch. A judge that needs a model receives it from the run (`JudgeContext.scorer`).

- `Benchmark`      prompts, the measure they serve, and the judge
- `Protocol`       how a number is made: decoding, system prompt, judged text, judges
- `Intervention` what is done to a prompt or to the beginning of a response
- `RefusalJudge`   refused, answered or undecided, by a small linear model over the answer's text
- `ShortAnswer`    whether an answer contains the gold answer (see `grading` for other graders)
- `Adherence`      which reasoning steps a generated thought has, and in which order
- `Summary`        generations and judgements -> metrics with n, undecided, truncated and intervals
"""

from alttrain.evaluation.adherence import Adherence
from alttrain.evaluation.grading import Choice, ShortAnswer
from alttrain.evaluation.interventions import Intervention
from alttrain.evaluation.judges import Judge, JudgeContext, RefusalJudge
from alttrain.evaluation.metrics import Metric, Summary
from alttrain.evaluation.protocol import Benchmark, Protocol, protocol_hash
