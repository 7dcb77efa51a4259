"""Judges that ask a model or combine several judges.

A verdict is True, False or undecided (None). A reply that cannot be read is undecided, never safe.

- `LlamaGuard`, `WildGuard`, `Qwen3Guard`, `GraniteGuardian`  guard models in process, by the probability of the verdict
- `GptOssSafeguard`  a reasoning guard in process, by what it writes after its thought
- `ThreeClass`, `StrongReject`, `HarmScore`, `OneWord`, `Structure`  rubrics for a model on a server
- `Published`        the text of a rubric in an installed package
- `Majority`         the majority verdict of several judges
- `RowJudge`, `RubricJudge`, `GuardModel`  base classes for a judge of your own: one method each
"""

from alttrain.evaluation.judges.guards import (
    Ask,
    GptOssSafeguard,
    GraniteGuardian,
    GuardModel,
    LlamaGuard,
    Qwen3Guard,
    WildGuard,
)
from alttrain.evaluation.judges.judge import NO_REPLY, Judge, JudgeContext, Majority, RowJudge, Says, check_goals
from alttrain.evaluation.judges.rubrics import HarmScore, OneWord, RubricJudge, StrongReject, Structure, ThreeClass
from alttrain.evaluation.published import Published

__all__ = [
    "NO_REPLY",
    "Ask",
    "GptOssSafeguard",
    "GraniteGuardian",
    "GuardModel",
    "HarmScore",
    "Judge",
    "JudgeContext",
    "LlamaGuard",
    "Majority",
    "OneWord",
    "Published",
    "Qwen3Guard",
    "RowJudge",
    "RubricJudge",
    "Says",
    "StrongReject",
    "Structure",
    "ThreeClass",
    "WildGuard",
    "check_goals",
]
