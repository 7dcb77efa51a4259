"""Several judges as one: what most of them say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Gt

from alttrain.evaluation.judges.asking import NO_REPLY
from alttrain.evaluation.judges.desk import Judge, JudgeDesk, Says
from alttrain.records import Generation, Judgement


@dataclass(frozen=True)
class Majority:
    """The verdict of more than half of the judges that decided; undecided on a tie, or where fewer than `quorum` did.

    All must say the same thing: a refusal is no opposite of harm. Where a judge's server did not reply the row is an
    error, whatever the others say: a verdict does not hang on a server's bad day. Evidence lists every judge's verdict.
    """

    judges: Mapping[str, Judge]
    quorum: Annotated[int, Gt(0)]
    name: str = "majority"

    def __post_init__(self) -> None:
        judges = self.judges.values()
        if len({judge.name for judge in judges}) < 2 or len({judge.name for judge in judges}) < len(judges):
            raise ValueError(
                f"judge {self.name}: judges={[judge.name for judge in judges]}; expected two or more of different names"
            )
        if len({judge.says for judge in judges}) > 1:
            told = ", ".join(f"{judge.name} says {judge.says!r}" for judge in judges)
            raise ValueError(f"judge {self.name}: its judges must all say the same thing, but {told}")
        if self.quorum > len(judges):
            raise ValueError(f"judge {self.name}: quorum={self.quorum} is more than its {len(judges)} judges")

    @property
    def says(self) -> Says:
        """What True means: the same as for each of the judges."""
        return next(iter(self.judges.values())).says

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
        verdict = None if silent or yes == no or yes + no < self.quorum else yes > no
        error = ""
        if silent:
            error = f"{NO_REPLY}{silent.judge}: {silent.error.removeprefix(NO_REPLY)}"
        elif verdict is None:
            error = "; ".join(f"{judgement.judge}: {judgement.error}" for judgement in told if judgement.error)
        evidence = ", ".join(f"{judgement.judge} {_WORDS[judgement.verdict]}" for judgement in told)
        return Judgement(told[0].id, self.name, verdict, evidence, error, sample=told[0].sample)


_WORDS = {True: "yes", False: "no", None: "undecided"}
