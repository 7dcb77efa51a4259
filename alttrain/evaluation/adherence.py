"""Structure adherence of a generated thought: which steps it holds, in which order, and whether they agree."""

from dataclasses import dataclass

from alttrain.records import Generation, Label
from alttrain.rewrite import parse, verdict


@dataclass(frozen=True)
class Adherence:
    """What one generated thought holds.

    `adheres` is the paper's structure: an understanding, then an assessment, then conditional reasoning. `consistent`
    is whether the conditional reasoning does what the assessment says: refuse where harmful, reason on where not.
    """

    understanding: bool
    assessment: Label | None
    continuation: bool
    ordered: bool
    consistent: bool
    closed: bool

    @property
    def adheres(self) -> bool:
        """Understanding, assessment and conditional reasoning, in this order."""
        return self.understanding and self.assessment is not None and self.continuation and self.ordered

    @classmethod
    def of(cls, generation: Generation) -> "Adherence":
        """The adherence of one generation's thought."""
        segments = parse(generation.thought)
        steps = ["continuation" if s.step in ("reasoning", "refusal") else s.step for s in segments]
        assessed = next((verdict(s.text) for s in segments if s.step == "assessment"), None)
        after = segments[-1].step if segments else None
        wanted = "refusal" if assessed == "harmful" else "reasoning"
        return cls(
            understanding="understanding" in steps,
            assessment=assessed,
            continuation="continuation" in steps,
            ordered=steps == ["understanding", "assessment", "continuation"],
            consistent=assessed is not None and after == wanted,
            closed=generation.closed,
        )
