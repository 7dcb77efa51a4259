"""Judges that ask a model or combine several judges.

A verdict is True, False or undecided (None). A reply that cannot be read is undecided, never safe.

- `LlamaGuard`, `WildGuard`, `Qwen3Guard`, `GraniteGuardian`  guard models in process, by the probability of the verdict
- `GptOssSafeguard`  a reasoning guard in process, by what it writes after its thought
- `ThreeClass`, `StrongReject`, `HarmScore`, `OneWord`, `Structure`  rubrics for a model on a server
- `Published`        the text of a rubric in an installed package
- `Majority`         the majority verdict of several judges
- `RowJudge`, `RubricJudge`, `GuardModel`  base classes for a judge of your own: one method each
"""

# isort: off
from alttrain.evaluation.judges.guards import (
    Ask as Ask,
    GptOssSafeguard as GptOssSafeguard,
    GraniteGuardian as GraniteGuardian,
    GuardModel as GuardModel,
    LlamaGuard as LlamaGuard,
    Qwen3Guard as Qwen3Guard,
    WildGuard as WildGuard,
)
from alttrain.evaluation.judges.judge import (
    NO_REPLY as NO_REPLY,
    JudgeContext as JudgeContext,
    Majority as Majority,
    RowJudge as RowJudge,
    check_goals as check_goals,
)
from alttrain.evaluation.judges.rubrics import (
    HarmScore as HarmScore,
    OneWord as OneWord,
    RubricJudge as RubricJudge,
    StrongReject as StrongReject,
    ThreeClass as ThreeClass,
)
from alttrain.evaluation.judges.structure import Structure as Structure
from alttrain.evaluation.published import Published as Published
