"""Judges that ask a model, or several judges. True, False or undecided; nothing they cannot read counts as safe.

- `LlamaGuard`, `WildGuard`  guard models in process, by the probability of their verdict's token
- `ThreeClass`, `StrongReject`, `HarmScore`  rubrics put to a model on any OpenAI-compatible server
- `Majority`                 what most of several judges say
- `Judge`, `JudgeDesk`, `Scorer`, `OneByOne`  the seams: the judge, what a run lends it, the model it reads
- `NO_REPLY`                 how the error of a judgement begins that a second run should ask for again
"""

from alttrain.evaluation.judges.asking import NO_REPLY
from alttrain.evaluation.judges.desk import Judge, JudgeDesk, OneByOne, Says, Scorer
from alttrain.evaluation.judges.guard import LlamaGuard, WildGuard
from alttrain.evaluation.judges.majority import Majority
from alttrain.evaluation.judges.rubric import HarmScore, StrongReject, ThreeClass

__all__ = [
    "NO_REPLY",
    "HarmScore",
    "Judge",
    "JudgeDesk",
    "LlamaGuard",
    "Majority",
    "OneByOne",
    "Says",
    "Scorer",
    "StrongReject",
    "ThreeClass",
    "WildGuard",
]
