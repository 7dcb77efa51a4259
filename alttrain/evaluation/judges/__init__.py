"""Judges that ask a model, or several judges. True, False or undecided; what they cannot read is not taken for safe.

- `LlamaGuard`, `WildGuard`, `Qwen3Guard`, `GraniteGuardian`  guard models in process, by their verdict's probability
- `GptOssSafeguard`  a reasoning guard in process, by what it writes after its thought
- `ThreeClass`, `StrongReject`, `HarmScore`, `OneWord`, `Structure`  rubrics put to a model on a server
- `Published`        a rubric's text in an installed package
- `Majority`         what most of several judges say
"""

from alttrain.evaluation.judges.guards import GptOssSafeguard, GraniteGuardian, LlamaGuard, Qwen3Guard, WildGuard
from alttrain.evaluation.judges.judge import NO_REPLY, Judge, JudgeContext, Majority, RowJudge, Says, check_goals
from alttrain.evaluation.judges.rubrics import HarmScore, OneWord, StrongReject, Structure, ThreeClass
from alttrain.evaluation.published import Published

__all__ = [
    "NO_REPLY",
    "GptOssSafeguard",
    "GraniteGuardian",
    "HarmScore",
    "Judge",
    "JudgeContext",
    "LlamaGuard",
    "Majority",
    "OneWord",
    "Published",
    "Qwen3Guard",
    "RowJudge",
    "Says",
    "StrongReject",
    "Structure",
    "ThreeClass",
    "WildGuard",
    "check_goals",
]
