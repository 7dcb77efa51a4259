"""Judges that ask a model or combine several judges, and what a judge of your own needs.

A verdict is True, False or undecided (None). A reply that cannot be read is undecided, never safe.

- `judge`    what a judge is and what it is shown; `RowJudge`, the base class of a judge that needs only the row;
             `RefusalJudge`, a small packaged model; `Majority`, the majority verdict of several judges
- `guards`   `LlamaGuard`, `WildGuard`, `Qwen3Guard`, `GraniteGuardian`, `GptOssSafeguard`: guard models;
             `GuardModel`, the base class of a guard of your own
- `rubrics`  `ThreeClass`, `StrongReject`, `HarmScore`, `Helpfulness`, `OneWord`, and `Structure`, what a thought holds:
             questions to a model on a server; `RubricJudge`, the base class of a rubric of your own
"""

from alttrain.evaluation.agreement import StructureAgreement
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
    NO_FORM,
    NO_REPLY,
    Judge,
    JudgeContext,
    Majority,
    ModelFault,
    ModelJudge,
    RefusalJudge,
    RowJudge,
    Says,
    check_rows,
    dialogue,
    exchange,
    goal_of,
    request,
    tag_texts,
)
from alttrain.evaluation.judges.rubrics import (
    HarmScore,
    Helpfulness,
    OneWord,
    RubricJudge,
    StrongReject,
    Structure,
    ThreeClass,
)
from alttrain.evaluation.published import Published
from alttrain.llm import GIVEN_UP
