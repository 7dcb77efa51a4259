"""Benchmarks, judges, grading, structure adherence and statistics. No torch: judges that need a model get it injected.

- `Benchmark`      prompts, the measure they serve, and the judge
- `Protocol`       how a number is made: decoding, system prompt, the text judged, the judges
- `RefusalJudge`   refused, answered, or undecided, by a small linear model of what an answer says
- `ShortAnswer`    whether an answer holds the gold answer
- `Adherence`      which steps a generated thought holds, in which order
- `summarise`      generations and judgements -> metrics with n, undecided, truncated and intervals
"""

from alttrain.evaluation.adherence import Adherence
from alttrain.evaluation.benchmark import Benchmark
from alttrain.evaluation.grading import Choice, ExactMatch, HumanEval, Maths, Rouge, ShortAnswer
from alttrain.evaluation.judges.judge import Judge, JudgeContext
from alttrain.evaluation.metrics import Metric, summarise
from alttrain.evaluation.protocol import Part, Protocol, protocol_hash, seen_by_judge
from alttrain.evaluation.refusal import RefusalJudge

__all__ = [
    "Adherence",
    "Benchmark",
    "Choice",
    "ExactMatch",
    "HumanEval",
    "Judge",
    "JudgeContext",
    "Maths",
    "Metric",
    "Part",
    "Protocol",
    "RefusalJudge",
    "Rouge",
    "ShortAnswer",
    "protocol_hash",
    "seen_by_judge",
    "summarise",
]
