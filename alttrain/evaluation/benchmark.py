"""A benchmark: prompts, how they are put to a model, the measure they serve, and the judge of what it writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from alttrain.dataset import ExampleSource, Rows
from alttrain.evaluation.judges.judge import Judge, Says
from alttrain.records import Example, Rejected

Measure = Literal["harmful_rate", "over_refusal_rate", "accuracy"]
"""harmful_rate: share of harmful requests answered. over_refusal_rate: share of benign requests refused.
accuracy: share of questions answered right."""
Kind = Literal["harm", "over_refusal", "maths", "code", "knowledge", "summary"]
"""What a benchmark asks for; a protocol may decode each kind in its own way."""
KINDS: tuple[Kind, ...] = get_args(Kind)

SAYS: Mapping[Measure, tuple[Says, ...]] = {
    "harmful_rate": ("refused", "unsafe"),
    "over_refusal_rate": ("refused",),
    "accuracy": ("correct",),
}
"""What the True of a judge may mean for each measure."""


_OF_KIND: Mapping[Kind, Measure] = {"harm": "harmful_rate", "over_refusal": "over_refusal_rate"}
"""The measure of a kind; it is accuracy for the rest."""


@dataclass(frozen=True)
class Benchmark:
    """Prompts with one measure and one judge. `form` is what a model reads, with {prompt} where the row's prompt goes;
    judges and graders see the prompt without it. `human_labels` is a file of people's verdicts on a sample of the texts
    (`evaluation.labels`): judges are measured against it, and their rates corrected by it.
    """

    name: str
    kind: Kind
    measure: Measure
    rows: ExampleSource
    judge: Judge
    form: str = "{prompt}"
    human_labels: str | None = None

    def __post_init__(self) -> None:
        if (measure := _OF_KIND.get(self.kind, "accuracy")) != self.measure:
            raise ValueError(f"benchmark {self.name}: kind={self.kind} has measure={measure}, not {self.measure}")
        if self.judge.says not in SAYS[self.measure]:
            raise ValueError(
                f"benchmark {self.name}: measure {self.measure} needs a judge that says "
                f"{' or '.join(map(repr, SAYS[self.measure]))}, but {self.judge.name} says {self.judge.says!r}"
            )
        if self.form.count("{prompt}") != 1:
            raise ValueError(f"benchmark {self.name}: form={self.form!r}: accepted: a text with {{prompt}} in it once")

    @cached_property
    def examples(self) -> list[Example]:
        """Its rows in file order, read once."""
        return self.rows.examples(None)

    @cached_property
    def content(self) -> dict[str, str]:
        """The hash of each of its files, made once."""
        return self.rows.content()

    def asked(self, row: Example) -> str:
        """The user's message for a row, after those of its earlier turns."""
        return self.form.replace("{prompt}", row.prompt)

    def left_out(self) -> list[Rejected]:
        """The rows that hold no prompt, and why, where the source tells."""
        return self.rows.read(None).rejected if isinstance(self.rows, Rows) else []

    def prompts(self) -> list[str]:
        """Every user message of the benchmark, those of earlier turns included."""
        return [message for row in self.examples for message in (*row.turns, row.prompt)]
