"""Judges that ask a model, or several judges. True, False or undecided; nothing they cannot read counts as safe.

- `LlamaGuard`, `WildGuard`, `Qwen3Guard`, `GraniteGuardian`  guard models in process, by their verdict's probability
- `GptOssSafeguard`          a reasoning guard in process, by what it writes after its thought
- `ThreeClass`, `StrongReject`, `HarmScore`, `OneWord`  rubrics put to a model on any OpenAI-compatible server
- `Structure`                what a thought holds, sentence by sentence, by a model on any such server
- `Published`                a rubric's text as an installed package has it
- `Majority`                 what most of several judges say
- `Judge`, `JudgeDesk`, `Scorer`, `OneByOne`  the seams: the judge, what a run lends it, the model it reads
- `check_goals`              refuses rows without the goal that a judge needs
- `NO_REPLY`                 how the error of a judgement begins that a second run should ask for again
"""

from alttrain.evaluation.judges.asking import NO_REPLY
from alttrain.evaluation.judges.desk import Judge, JudgeDesk, OneByOne, Says, Scorer, check_goals
from alttrain.evaluation.judges.guard import GptOssSafeguard, GraniteGuardian, LlamaGuard, Qwen3Guard, WildGuard
from alttrain.evaluation.judges.majority import Majority
from alttrain.evaluation.judges.published import Published
from alttrain.evaluation.judges.rubric import HarmScore, OneWord, StrongReject, ThreeClass
from alttrain.evaluation.judges.structure import Structure, StructureAgreement

__all__ = [
    "NO_REPLY",
    "GptOssSafeguard",
    "GraniteGuardian",
    "HarmScore",
    "Judge",
    "JudgeDesk",
    "LlamaGuard",
    "Majority",
    "OneByOne",
    "OneWord",
    "Published",
    "Qwen3Guard",
    "Says",
    "Scorer",
    "StrongReject",
    "Structure",
    "StructureAgreement",
    "ThreeClass",
    "WildGuard",
    "check_goals",
]
