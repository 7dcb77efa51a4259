"""Benchmarks, judges, grading, structure adherence and statistics. No torch: judges that need a model get it injected.

- `Benchmark`      prompts, the measure they serve, and the judge
- `RefusalPhrases` refused, answered, or undecided, by what an answer says
- `ShortAnswer`    whether an answer holds the gold answer
- `Adherence`      which steps a generated thought holds, in which order
- `summarise`      generations and judgements -> metrics with n, undecided, truncated and intervals
"""

from alttrain.evaluation.adherence import Adherence
from alttrain.evaluation.benchmark import Benchmark, Judge
from alttrain.evaluation.grading import ShortAnswer
from alttrain.evaluation.metrics import Metric, summarise
from alttrain.evaluation.refusal import RefusalPhrases

__all__ = ["Adherence", "Benchmark", "Judge", "Metric", "RefusalPhrases", "ShortAnswer", "summarise"]
