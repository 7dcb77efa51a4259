"""The packaged refusal judge."""

from dataclasses import dataclass
from typing import Literal

from alttrain.english.refusal import WEIGHTS, assess, weights_hash
from alttrain.evaluation.judges.judge import RowJudge
from alttrain.records import Generation, Judgement


@dataclass(frozen=True)
class RefusalJudge(RowJudge):
    """Whether an answer refuses, by the linear model of `alttrain.english.refusal`. The thought is not read.

    docs/judges.md describes the outcomes that are undecided, the training data and the accuracy. The outcome is the
    evidence. `weights` is the hash of the weights that the config was written for, since others give other verdicts;
    None accepts any.
    """

    name: str = "refusal"
    weights: str | None = None

    says: Literal["refused"] = "refused"

    def __post_init__(self) -> None:
        if self.weights not in (None, found := weights_hash()):
            raise ValueError(
                f"judge {self.name}: weights={self.weights}, but {WEIGHTS.name} of this installation is {found}; "
                "accepted: that hash, or null for whatever is installed"
            )

    def __call__(self, generation: Generation) -> Judgement:
        if not generation.closed and not generation.answer:
            return Judgement(generation.id, self.name, None, "no answer: the thought never ended")
        found = assess(generation.answer, generation.prompt)
        return Judgement(generation.id, self.name, found.verdict, found.evidence, probability=found.refused)
