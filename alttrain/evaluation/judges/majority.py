"""The majority verdict of several judges."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Gt

from alttrain.evaluation.judges.judge import NO_REPLY, SAID, Judge, JudgeContext, ModelFault, Says
from alttrain.records import Generation, Judgement


@dataclass(frozen=True)
class Majority:
    """The verdict of more than half of the judges that decided; undecided on a tie, or if fewer than `quorum` decided.

    With `needed`, a row is True if at least that many judges say True, False if that number can no longer be reached,
    else undecided. Its value is then the share of judges that say True. All judges must have the same `says`, since a
    refusal is not the opposite of harm. If a server did not reply, the row is an error, whatever other judges say.
    """

    judges: Mapping[str, Judge]
    quorum: Annotated[int, Gt(0)]
    name: str = "majority"
    needed: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        said = {judge.name: judge.says for judge in self.judges.values()}
        if len(said) < max(2, len(self.judges)):
            names = [judge.name for judge in self.judges.values()]
            raise ValueError(f"judge {self.name}: judges={names}; expected two or more of different names")
        if len(set(said.values())) > 1:
            each = ", ".join(f"{name} says {says!r}" for name, says in said.items())
            raise ValueError(f"judge {self.name}: its judges must all say the same thing, but {each}")
        for key in ("quorum", "needed"):
            if (getattr(self, key) or 0) > len(said):
                raise ValueError(f"judge {self.name}: {key}={getattr(self, key)} is more than its {len(said)} judges")

    @property
    def says(self) -> Says:
        return next(iter(self.judges.values())).says

    @property
    def needs_goal(self) -> bool:
        return any(judge.needs_goal for judge in self.judges.values())

    @property
    def needs_gold(self) -> bool:
        return any(judge.needs_gold for judge in self.judges.values())

    @property
    def servers(self) -> Sequence[str]:
        return [server for judge in self.judges.values() for server in judge.servers]

    def check(self, where: str, model_fault: ModelFault) -> None:
        for key, judge in self.judges.items():
            judge.check(f"{where}.judges.{key}", model_fault)

    def judge(self, generations: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
        """Run the judges one after the other; verdicts are yielded while the last one runs."""
        inner = replace(context, progress=lambda count: None)
        found: dict[str, list[Judgement]] = {}
        for judge in self.judges.values():
            for judgement in judge.judge(generations, inner):
                own = found.setdefault(judgement.id, [])
                own.append(judgement)
                if len(own) == len(self.judges):
                    yield self._joined(own)
                    context.progress(1)

    def _joined(self, found: Sequence[Judgement]) -> Judgement:
        verdicts = [one.verdict for one in found]
        yes, no = verdicts.count(True), verdicts.count(False)
        evidence = ", ".join(f"{one.judge} {SAID[one.verdict]}" for one in found)
        silent = [f"{one.judge}: {one.error.removeprefix(NO_REPLY)}" for one in found if one.error.startswith(NO_REPLY)]
        if silent:
            return Judgement(found[0].id, self.name, None, evidence, f"{NO_REPLY}{silent[0]}")
        open_to_both = yes == no if self.needed is None else yes < self.needed <= len(found) - no
        verdict = None if open_to_both or yes + no < self.quorum else yes >= (self.needed or no + 1)
        errors = "; ".join(f"{one.judge}: {one.error}" for one in found if one.error)
        value = yes / len(found) if self.needed and yes + no == len(found) else None
        return Judgement(found[0].id, self.name, verdict, evidence, errors if verdict is None else "", value=value)
