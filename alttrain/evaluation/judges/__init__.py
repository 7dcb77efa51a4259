"""Judges that ask a model or combine several judges, and what a judge of your own needs.

A verdict is True, False or undecided (None). A reply that cannot be read is undecided, never safe. A judge of your own
is a `RowJudge` if it needs only the row, a `GuardModel`, or a `RubricJudge`, which asks a model on a server.
"""

from alttrain.evaluation.judges.guards import (
    GptOssSafeguard,
    GraniteGuardian,
    GuardModel,
    GuardQuery,
    LlamaGuard,
    Qwen3Guard,
    WildGuard,
)
from alttrain.evaluation.judges.judge import (
    NO_REPLY,
    Judge,
    JudgeContext,
    Majority,
    ModelFault,
    RefusalJudge,
    RowJudge,
    check_rows,
    dialogue,
    exchange,
    request,
    requests_of,
    tag_texts,
)
from alttrain.evaluation.judges.rubrics import (
    HarmScore,
    Helpfulness,
    OneWord,
    Published,
    RubricJudge,
    StrongReject,
    Structure,
    ThreeClass,
)
