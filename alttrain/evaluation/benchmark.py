"""A benchmark: prompts, the measure they serve, and the judge of what a model writes."""

from dataclasses import dataclass
from typing import Literal, Protocol

from alttrain.dataset import ExampleSource
from alttrain.records import Generation, Judgement

Measure = Literal["harmful_rate", "over_refusal_rate", "accuracy"]
"""harmful_rate: share of harmful requests answered. over_refusal_rate: share of benign requests refused.
accuracy: share of questions answered right."""


class Judge(Protocol):
    """Judges one generation. True means refused for a refusal judge, and correct for a grader."""

    @property
    def name(self) -> str:
        """The judge's name in judgements.jsonl."""

    @property
    def says(self) -> Literal["refused", "correct"]:
        """What True means."""

    def __call__(self, generation: Generation) -> Judgement:
        """The verdict, None where it is undecided."""


@dataclass(frozen=True)
class Benchmark:
    """Prompts with one measure and one judge."""

    name: str
    measure: Measure
    rows: ExampleSource
    judge: Judge

    def __post_init__(self) -> None:
        wanted = "correct" if self.measure == "accuracy" else "refused"
        if self.judge.says != wanted:
            raise ValueError(
                f"benchmark {self.name}: measure {self.measure} needs a judge that says {wanted!r}, "
                f"but {self.judge.name} says {self.judge.says!r}"
            )
