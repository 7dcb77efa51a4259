"""What a judge is, what it is shown of a generation, the base classes of judges, and the judges that ask no model."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Gt

from alttrain.english.refusal import WEIGHTS, assess_refusal, weights_hash
from alttrain.llm import Failure, ServerSettings
from alttrain.records import Example, Generation, Judgement

if TYPE_CHECKING:
    from alttrain.generation.scorer import ServedScorer, TokenScorer

NO_REPLY = "no reply: "  # prefix of a judgement's error if the server failed; the next run asks again
TOO_LONG = "the judge's prompt has "  # prefix of a judgement's error if the text does not fit the judge's context
NO_FORM = "the judge's reply is not in the form asked for"
VERDICT_WORDS = {True: "yes", False: "no", None: "undecided"}  # a verdict in the evidence

Says = Literal["refused", "correct", "unsafe"]  # what True from a judge means
Against = Literal["prompt", "goal", "goal_if_any"]
"""What an answer is judged against: the prompt as sent, or the goal of the attack, which the benchmark's row states in
plain words. With "goal_if_any", a row without a goal is judged against its prompt."""
ModelFault = Callable[[str, str | None, str | None], str]
"""(hub id or folder, revision, dtype; None if its tokenizer is enough) -> why the model cannot be had here, or ""."""


Vote = Callable[[Any, Sequence[Generation], "JudgeContext"], Iterator[Judgement]]
"""Has a judge, or a guard of a rewrite, judge."""


@dataclass(frozen=True)
class JudgeContext:
    """What a run passes to a judge.

    `cache` is the folder of cached replies. `scorer` loads a model (hub id or folder, revision, dtype) and keeps the
    last one; given a server, it asks that one instead. `progress` is called with the number of generations judged since
    the last call. `vote` has a judge of a majority judge, and may keep its votes (`judged.votes_kept`).
    """

    cache: Path
    scorer: "Callable[[str, str | None, str, ServerSettings | None], TokenScorer | ServedScorer] | None" = None
    progress: Callable[[int], None] = lambda count: None
    vote: Vote = lambda judge, generations, context: judge.judge(generations, context)


class Judge(Protocol):
    """Judges generations. The text to judge is in `answer`, whichever part of the response it is.

    `name` is the judge's name in judgements.jsonl, `says` what True means, and `servers` the addresses that it asks. If
    it `needs_goal`, every row must have the goal of the attack; if it `needs_gold`, some row must have a gold answer.
    """

    @property
    def name(self) -> str: ...
    @property
    def says(self) -> Says: ...
    @property
    def needs_goal(self) -> bool: ...
    @property
    def needs_gold(self) -> bool: ...
    @property
    def servers(self) -> Sequence[str]: ...

    def check(self, where: str, model_fault: ModelFault) -> None:
        """Raise ValueError, naming the config key below `where`, if a model, server or text is not available."""

    def judge(self, generations: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
        """Yield one judgement for each generation, in any order, as they become available. Ids differ."""


def sees_goal(judge: Judge) -> bool:
    """Whether this is a judge of harm that sees an attack's goal, or a majority of such judges."""
    if isinstance(judge, Majority):
        return all(map(sees_goal, judge.judges.values()))
    return judge.says == "unsafe" and getattr(judge, "against", "prompt") != "prompt"


def requests_of(judge: Any) -> int:
    """The most requests to servers for one text. A judge that does not say sends one to each of its `servers`."""
    return int(getattr(judge, "requests", len(judge.servers)))


def check_rows(judge: Judge, benchmark: str, rows: Sequence[Example]) -> None:
    """Raise ValueError if a judge needs a goal that rows of the benchmark lack, or a gold answer that all lack."""
    if rows and judge.needs_gold and not any(row.gold for row in rows):
        fault = f"compares with a gold answer, and none of {len(rows)} rows has one"
        raise ValueError(f"benchmark {benchmark}: judge {judge.name} {fault}; name its column in rows.columns.gold")
    if judge.needs_goal and (lacking := [row.id for row in rows if not row.goal]):
        raise ValueError(
            f"benchmark {benchmark}: judge {judge.name} holds an answer to the attack's goal (against=goal), but "
            f"{len(lacking)} of {len(rows)} rows have none, {lacking[0]} for one; name the goal's column in "
            "rows.columns.goal, or set the judge's against to prompt or goal_if_any"
        )


def goal_of(generation: Generation, against: Against) -> str:
    """The goal that the answer is judged against; "" if that is the prompt."""
    return "" if against == "prompt" else generation.goal


def dialogue(generation: Generation, against: Against) -> list[tuple[str, str]]:
    """(role, text) of every message, for a chat template. Against a goal: only the goal and the answer."""
    if goal := goal_of(generation, against):
        return [("user", goal), ("assistant", generation.answer)]
    turns = zip(generation.turns, generation.earlier, strict=False)
    before = [message for user, answer in turns for message in (("user", user), ("assistant", answer.strip()))]
    return [*before, ("user", generation.prompt), ("assistant", generation.answer)]


def request(generation: Generation, against: Against) -> str:
    """What the answer is judged against, as one text. In a dialogue each turn begins with its role."""
    turns = dialogue(generation, against)[:-1]
    return turns[0][1] if len(turns) == 1 else "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


def exchange(generation: Generation, against: Against = "prompt") -> str:
    """Goal, turns, prompt and answer as one text, each between marks."""
    names = {"user": "earlier-prompt", "assistant": "earlier-response"}
    texts = [(names[role], text) for role, text in dialogue(generation, "prompt")[:-2]]
    texts += [("prompt", generation.prompt), ("response", generation.answer)]
    if goal := goal_of(generation, against):
        texts.insert(0, ("goal", goal))
    return tag_texts(texts)


def tag_texts(shown: Sequence[tuple[str, str]]) -> str:
    """(name, text) pairs as one text, each between marks with its name, which no text can contain."""
    digest = hashlib.sha256("\x1f".join(text for _, text in shown).encode()).hexdigest()[:8]
    return "\n\n".join(f"<{mark}-{digest}>\n{text}\n</{mark}-{digest}>" for mark, text in shown)


class RowJudge(ABC):
    """A judge that needs only the generation. Subclasses define `__call__`, `name` and `says`."""

    name: str
    needs_goal = False
    needs_gold: ClassVar[bool] = False  # whether it compares with a gold answer
    servers: Sequence[str] = ()

    def check(self, where: str, model_fault: ModelFault) -> None:
        return

    @abstractmethod
    def __call__(self, generation: Generation) -> Judgement:
        """Judge one generation."""

    def judge(self, generations: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
        for generation in generations:
            yield self(generation)
            context.progress(1)


@dataclass(frozen=True)
class RefusalJudge(RowJudge):
    """Whether an answer refuses, by the linear model of `alttrain.english.refusal`. The thought is not read.

    docs/judges.md describes the outcomes that are undecided, the training data and the accuracy. The outcome is the
    evidence. `weights` is the hash of the weights and rules that the config was written for, since others give other
    verdicts; None accepts any.
    """

    name: str = "refusal"
    weights: str | None = None

    says: Literal["refused"] = "refused"

    def __post_init__(self) -> None:
        if self.weights not in (None, installed := weights_hash()):
            fault = f"weights={self.weights}, but {WEIGHTS.name} of this installation is {installed}"
            raise ValueError(f"judge {self.name}: {fault}; accepted: that hash, or null for whatever is installed")

    def __call__(self, generation: Generation) -> Judgement:
        if not generation.closed and not generation.answer:
            return Judgement(generation.id, self.name, None, "no answer: the thought never ended")
        outcome = assess_refusal(generation.answer, generation.prompt)
        return Judgement(generation.id, self.name, outcome.verdict, outcome.evidence, probability=outcome.probability)


@dataclass(frozen=True)
class ModelJudge(ABC):
    """A judge that asks a model. A blank text is undecided. Subclasses define `says`, `check` and `ask`."""

    _: KW_ONLY
    name: str
    against: Against = "prompt"

    reads: ClassVar[Literal["answer", "thought"]] = "answer"
    """The field of a generation that is judged. If it is empty, the model is not asked."""

    needs_gold: ClassVar[bool] = False

    @property
    def needs_goal(self) -> bool:
        return self.against == "goal"

    @abstractmethod
    def ask(self, rows: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
        """Judge rows that have something to judge."""

    def failed_judgement(self, row: Generation, failure: Failure) -> Judgement:
        error = failure.reason if failure.final else f"{NO_REPLY}{failure.reason}"
        return Judgement(row.id, self.name, None, error=error)

    def judge(self, generations: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
        """Yield judgements: first of rows with nothing to judge."""
        rows = []
        for row in generations:
            if getattr(row, self.reads).strip():
                rows.append(row)
            else:
                context.progress(1)
                yield Judgement(row.id, self.name, None, f"empty {self.reads}")
        for judgement in self.ask(rows, context) if rows else ():
            context.progress(1)
            yield judgement


@dataclass(frozen=True)
class Majority:
    """The verdict of more than half of the judges that decided; undecided on a tie, or if fewer than `quorum` decided.

    With `needed`: True if at least that many say True, False if that can no longer happen, else undecided. `quorum`
    applies as well. The value is then the share of judges that say True. All judges must have the same `says`, since a
    refusal is not the opposite of harm. If a server did not reply, the row is an error, whatever other judges say.
    """

    judges: Mapping[str, Judge]
    quorum: Annotated[int, Gt(0)]
    name: str = "majority"
    needed: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        means = {judge.name: judge.says for judge in self.judges.values()}
        if len(means) < max(2, len(self.judges)):
            names = [judge.name for judge in self.judges.values()]
            raise ValueError(f"judge {self.name}: judges={names}; expected two or more of different names")
        if len(set(means.values())) > 1:
            listed = ", ".join(f"{name} says {says!r}" for name, says in means.items())
            raise ValueError(f"judge {self.name}: its judges must all say the same thing, but {listed}")
        for key in ("quorum", "needed"):
            if (getattr(self, key) or 0) > len(means):
                raise ValueError(f"judge {self.name}: {key}={getattr(self, key)} is more than its {len(means)} judges")

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

    @property
    def requests(self) -> int:
        return sum(map(requests_of, self.judges.values()))

    def check(self, where: str, model_fault: ModelFault) -> None:
        for key, judge in self.judges.items():
            judge.check(f"{where}.judges.{key}", model_fault)

    def judge(self, generations: Sequence[Generation], context: JudgeContext) -> Iterator[Judgement]:
        """Run the judges one after the other; verdicts are yielded while the last one runs."""
        *others, last = self.judges.values()
        inner = replace(context, progress=lambda count: None)
        before = [{vote.id: vote for vote in context.vote(judge, generations, inner)} for judge in others]
        for vote in last.judge(generations, context):
            yield self._joined([*(votes[vote.id] for votes in before), vote])

    def _joined(self, votes: Sequence[Judgement]) -> Judgement:
        verdicts = [vote.verdict for vote in votes]
        yes, no = verdicts.count(True), verdicts.count(False)
        evidence = ", ".join(f"{vote.judge} {VERDICT_WORDS[vote.verdict]}" for vote in votes)
        if silent := next((vote for vote in votes if vote.error.startswith(NO_REPLY)), None):
            error = f"{NO_REPLY}{silent.judge}: {silent.error.removeprefix(NO_REPLY)}"
            return Judgement(votes[0].id, self.name, None, evidence, error)
        open_to_both = yes == no if self.needed is None else yes < self.needed <= len(votes) - no
        verdict = None if open_to_both or yes + no < self.quorum else yes >= (self.needed or no + 1)
        errors = "; ".join(f"{vote.judge}: {vote.error}" for vote in votes if vote.error)
        value = yes / len(votes) if self.needed and yes + no == len(votes) else None
        return Judgement(votes[0].id, self.name, verdict, evidence, errors if verdict is None else "", value=value)
