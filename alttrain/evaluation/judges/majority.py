"""Several judges as one: what most of them say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Gt

from alttrain.evaluation.judges.asking import NO_REPLY
from alttrain.evaluation.judges.desk import Judge, JudgeDesk, ModelFault, Says
from alttrain.records import Generation, Judgement


@dataclass(frozen=True)
class Majority:
    """The verdict of more than half of the judges that decided; undecided on a tie, or where fewer than `quorum` did.

    With `needed` so many must say True, whatever the rest says: a row is False once they cannot be reached, undecided
    while those that did not decide could make the difference, and its value is the share that says True.

    All must say the same thing: a refusal is no opposite of harm. Where a judge's server did not reply the row is an
    error, whatever the others say: a verdict does not hang on a server's bad day. Evidence lists every judge's verdict.
    """

    judges: Mapping[str, Judge]
    quorum: Annotated[int, Gt(0)]
    name: str = "majority"
    needed: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        judges = self.judges.values()
        if len({judge.name for judge in judges}) < 2 or len({judge.name for judge in judges}) < len(judges):
            raise ValueError(
                f"judge {self.name}: judges={[judge.name for judge in judges]}; expected two or more of different names"
            )
        if len({judge.says for judge in judges}) > 1:
            told = ", ".join(f"{judge.name} says {judge.says!r}" for judge in judges)
            raise ValueError(f"judge {self.name}: its judges must all say the same thing, but {told}")
        for key in ("quorum", "needed"):
            if (getattr(self, key) or 0) > len(judges):
                raise ValueError(f"judge {self.name}: {key}={getattr(self, key)} is more than its {len(judges)} judges")

    @property
    def says(self) -> Says:
        """What True means: the same as for each of the judges."""
        return next(iter(self.judges.values())).says

    @property
    def needs_goal(self) -> bool:
        """Whether one of the judges needs it."""
        return any(judge.needs_goal for judge in self.judges.values())

    def verify(self, where: str, model_fault: ModelFault) -> None:
        """Verify every judge."""
        for key, judge in self.judges.items():
            judge.verify(f"{where}.judges.{key}", model_fault)

    def judge(self, generations: Sequence[Generation], desk: JudgeDesk) -> Iterator[Judgement]:
        """One judge after the other over all generations; the verdicts come with the last one's."""
        inner = replace(desk, progress=lambda count: None)
        verdicts: dict[tuple[str, int], list[Judgement]] = {}
        for judge in self.judges.values():
            for judgement in judge.judge(generations, inner):
                told = verdicts.setdefault((judgement.id, judgement.sample), [])
                told.append(judgement)
                if len(told) == len(self.judges):
                    yield self._joined(told)
                    desk.progress(1)

    def _joined(self, told: Sequence[Judgement]) -> Judgement:
        verdicts = [judgement.verdict for judgement in told]
        yes, no = verdicts.count(True), verdicts.count(False)
        silent = next((judgement for judgement in told if judgement.error.startswith(NO_REPLY)), None)
        open_to_both = yes == no if self.needed is None else yes < self.needed <= len(told) - no
        verdict = None if silent or open_to_both or yes + no < self.quorum else yes >= (self.needed or no + 1)
        error = ""
        if silent:
            error = f"{NO_REPLY}{silent.judge}: {silent.error.removeprefix(NO_REPLY)}"
        elif verdict is None:
            error = "; ".join(f"{judgement.judge}: {judgement.error}" for judgement in told if judgement.error)
        evidence = ", ".join(f"{judgement.judge} {_WORDS[judgement.verdict]}" for judgement in told)
        value = yes / len(told) if self.needed and yes + no == len(told) else None
        return Judgement(told[0].id, self.name, verdict, evidence, error, value=value, sample=told[0].sample)


_WORDS = {True: "yes", False: "no", None: "undecided"}
