"""Reasoning structures: each turns an Example into the Example to train on, or rejects it with the reason.

- `AltTrain`       understanding, assessment, then refuse or reason on (In et al., ACL 2026); each step is a switch
- `Plain`          the original traces and answers: the control on the same prompts, and the rows of a published set
- `SafePath`       a fixed primer that opens the thought, and nothing else
- `ThinkSafe`      what the backbone itself answers, as far as a guard lets it pass
- `PromptSide`     no training: a system prompt, a form around the user's message, or turns before it
- `Untouched`      the examples as they are

A structure says for which labels it needs an original trace and answer (`continues`), and who writes its assessment
(`teacher`); the rewrite stage sees to it that they are there. `parse` of a structure is the exact inverse of rendering
what it rewrote. `trace_hash` of a rewritten example is that of the original it started from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol

from annotated_types import Ge, Le

from alttrain.records import Example, Generation, Judgement, Label, Rejected, Segment, Shape, Step
from alttrain.rewrite.original import SLOT, SelfTrace, trace_hash
from alttrain.rewrite.parser import SEPARATOR
from alttrain.rewrite.teachers import Teacher, TemplateTeacher, Understander
from alttrain.rewrite.understanding import Understanding
from alttrain.rewrite.wording import REPHRASED_STOPS, STOPS, choose, refusal

Share = Annotated[float, Ge(0), Le(1)]
Traces = Literal["dataset", "backbone"]
"""Whose traces the examples of `continues` start from: the dataset's where it has one, or always the backbone's."""
StepSwitch = Literal["understanding", "assessment", "reasoning"]
"""A step that can be left out or moved; `reasoning` is the conditional reasoning, a refusal for a harmful example."""


class Guard(Protocol):
    """A judge that says which responses are unsafe."""

    @property
    def name(self) -> str: ...
    @property
    def says(self) -> Literal["refused", "unsafe", "correct"]: ...
    def check(self, where: str, model_fault: Any) -> None: ...
    def judge(self, generations: Sequence[Generation], context: Any) -> Iterator[Judgement]: ...


class Structure(Protocol):
    """A reasoning structure."""

    @property
    def name(self) -> str:
        """The structure's part of the run's name."""

    @property
    def continues(self) -> Sequence[Label]:
        """The labels whose examples need an original trace and answer."""

    @property
    def original(self) -> SelfTrace | None:
        """How the backbone is asked for the originals that the dataset lacks."""

    @property
    def traces(self) -> Traces:
        """Whether the backbone is asked even where the dataset has a trace."""

    @property
    def may_lose(self) -> float:
        """The share of a label's rows that may be left out."""

    @property
    def guard(self) -> Guard | None:
        """Who sorts out what the backbone wrote."""

    @property
    def teacher(self) -> Teacher | None:
        """Who writes the assessment; None where the structure has none."""

    @property
    def understander(self) -> Understander | None:
        """Who writes the understanding of rows without a trace; None where a rule does, or none is needed."""

    @property
    def system(self) -> str | None:
        """The system prompt that belongs to the structure; None leaves the backbone's own."""

    @property
    def prompt_form(self) -> str:
        """What the user's message is put into, at {prompt}; the slot alone leaves it as it is."""

    def prompt(self, message: str) -> str:
        """The user's message as the model is asked it."""

    def turns_before(self, message: str) -> tuple[str, ...]:
        """What the model is asked before the user's message, turn by turn; it answers each."""

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """The example to train on; `assessment` is the teacher's, `understanding` the understander's."""

    def parse(self, thought: str) -> tuple[Segment, ...]:
        """The segments of a thought this structure rendered, their origin aside."""


class AsAsked:
    """What holds for a structure that says nothing else: no teacher, no originals, the prompt as the user wrote it."""

    continues: Sequence[Label] = ()
    original: SelfTrace | None = None
    traces: Traces = "dataset"
    may_lose: float = 0.1
    guard: Guard | None = None
    teacher: Teacher | None = None
    understander: Understander | None = None
    system: str | None = None
    prompt_form: str = SLOT
    before: Sequence[str] = ()

    def prompt(self, message: str) -> str:
        """The user's message as the model is asked it."""
        return self.prompt_form.replace(SLOT, message)

    def turns_before(self, message: str) -> tuple[str, ...]:
        """What the model is asked before the user's message, turn by turn; it answers each."""
        return tuple(turn.replace(SLOT, message) for turn in self.before)


def lacks_original(structure: Structure, example: Example) -> bool:
    """Whether the backbone is asked for this example's trace and answer."""
    return example.label in structure.continues and (structure.traces == "backbone" or not example.thought)


@dataclass(frozen=True)
class AltTrain(AsAsked):
    """Problem understanding -> harmfulness assessment -> conditional reasoning (refuse, or reason on).

    `steps` are the steps of the thought in their order. A step that is left out is out of the thought, the rest stays
    as it was, byte for byte. Without understanding the trace's own is taken out, too (`understanding=None` would leave
    it in). Without conditional reasoning the thought ends before it: a harmful example is refused in the answer alone,
    a benign one has its answer follow at once, and so has one whose trace was its understanding alone. `understander`
    writes the understanding of rows without a trace, where a rule is not to. `stops` are the sentences that end a
    harmful thought: a pool by name, or the sentences themselves. `traces` says whose originals the rows of `continues`
    start from. A run stops where more than `may_lose` of a label's rows are left out.
    """

    name: str
    understanding: Understanding | None
    teacher: Teacher | None = None
    original: SelfTrace | None = None
    steps: Sequence[StepSwitch] = ("understanding", "assessment", "reasoning")
    stops: Literal["template", "rephrased"] | Sequence[str] = "template"
    continues: Sequence[Label] = ("benign",)
    understander: Understander | None = None
    traces: Traces = "dataset"
    may_lose: Share = 0.1

    def __post_init__(self) -> None:
        _check_traces(self)
        if isinstance(self.understander, TemplateTeacher):
            raise ValueError("rewrite.understander=template: it writes no understandings; choose one that asks a model")
        if not self.steps or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"rewrite.steps={list(self.steps)}: one or more steps are needed, each once")
        if "assessment" not in self.steps:
            object.__setattr__(self, "teacher", None)  # nobody is asked for what is left out
        elif self.teacher is None:
            raise ValueError(f"rewrite.steps={list(self.steps)}: an assessment needs rewrite.teacher")
        if "understanding" in self.steps and self.understanding is None:
            raise ValueError(f"rewrite.steps={list(self.steps)}: an understanding needs rewrite.understanding")
        if not self._stops or any(not stop.strip() or SEPARATOR in stop for stop in self._stops):
            raise ValueError(f"rewrite.stops={self.stops!r}: one or more sentences of one paragraph are needed")

    @property
    def _stops(self) -> Sequence[str]:
        return (
            {"template": STOPS, "rephrased": REPHRASED_STOPS}[self.stops] if isinstance(self.stops, str) else self.stops
        )

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """The example with its thought rewritten, and for a harmful one its answer."""
        if "assessment" in self.steps:
            if assessment is None:
                raise ValueError(f"{example.id}: rewrite={self.name} needs the teacher's assessment")
            if not assessment.text.strip() or SEPARATOR in assessment.text:
                return Rejected(example.id, "the assessment is not one paragraph")
        needs_trace = "reasoning" in self.steps
        if example.label == "benign" and not (example.answer and (example.thought or not needs_trace)):
            return Rejected(example.id, "a benign example needs an original trace and answer")
        thought: list[Segment] = []
        for step in self.steps:
            if step == "understanding" and self.understanding is not None:
                thought.append(understanding or self.understanding(example))
            elif step == "assessment" and assessment is not None:
                thought.append(assessment)
            elif step == "reasoning":
                thought += self._reason(example, seed)
        if not thought:
            return Rejected(example.id, "the trace holds nothing but its understanding")
        answer = refusal(example, seed) if example.label == "harmful" else example.answer
        return replace(example, thought=tuple(thought), answer=answer, trace_hash=trace_hash(example))

    def _reason(self, example: Example, seed: int) -> tuple[Segment, ...]:
        if example.label == "harmful":
            return (Segment("refusal", choose(self._stops, "stop", example.id, seed), "template"),)
        return self.understanding.rest(example) if self.understanding else example.thought

    def parse(self, thought: str) -> tuple[Segment, ...]:
        """The paragraphs before and after the conditional reasoning are one step each; what is between them is it.

        Raises ValueError where the thought has too few paragraphs to be one of this structure's.
        """
        steps: list[Step] = list(self.steps)
        at = steps.index("reasoning") if "reasoning" in steps else len(steps)
        before, after = steps[:at], steps[at + 1 :]
        texts = thought.split(SEPARATOR, len(before))
        if len(texts) > len(before):
            texts[-1:] = texts[-1].rsplit(SEPARATOR, len(after))
        if len(texts) == len(steps) and at < len(steps):
            before.append("refusal" if texts[at] in self._stops else "reasoning")
        if len(texts) < len(before + after):
            raise ValueError(f"rewrite={self.name} did not write a thought of {len(texts)} paragraphs")
        return tuple(Segment(step, text, "parsed") for step, text in zip(before + after, texts, strict=True))


@dataclass(frozen=True)
class Plain(AsAsked):
    """The original traces and answers, no step added: rows of other `shapes` are rejected.

    On AltTrain's prompts it is the control that tells the structure from the fine-tuning; `original` then asks the
    backbone for what the benign ones lack, as AltTrain does.
    """

    name: str
    original: SelfTrace | None = None
    traces: Traces = "dataset"
    shapes: Sequence[Shape] = ("thought_and_answer",)
    may_lose: Share = 0.1

    def __post_init__(self) -> None:
        _check_traces(self)

    @property
    def continues(self) -> Sequence[Label]:  # type: ignore[override]
        """Benign examples, where the backbone is asked at all."""
        return ("benign",) if self.original else ()

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """The example itself."""
        return _as_it_is(example, self.shapes)

    def parse(self, thought: str) -> tuple[Segment, ...]:
        """The whole trace is the reasoning."""
        return (Segment("reasoning", thought, "parsed"),) if thought else ()


@dataclass(frozen=True)
class SafePath(AsAsked):
    """SAFEPATH: a harmful prompt's thought opens with a fixed primer, and only the primer is trained on.

    The thought is left open and nothing follows, so that the model reasons on by itself. Benign examples are the
    retain set: as they are, where they have a trace and an answer (the Llama recipe; Qwen's has none).
    """

    name: str
    primer: str

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """The primer for a harmful example, the example itself for a benign one."""
        if example.label == "benign":
            return _as_it_is(example)
        thought = (Segment("primer", self.primer, "template"),)
        return replace(example, thought=thought, answer="", partial=True, trace_hash=trace_hash(example))

    def parse(self, thought: str) -> tuple[Segment, ...]:
        """The primer, or a whole trace."""
        return (Segment("primer" if thought == self.primer else "reasoning", thought, "parsed"),)


@dataclass(frozen=True)
class ThinkSafe(AsAsked):
    """ThinkSafe: every prompt is answered by the untrained backbone itself, and what `guard` calls unsafe is left out.

    `original` says how it is asked; its `harmful_form` steers it to refuse, and is no part of the row. What the guard
    does not decide is kept, as in the source (seanie12/ThinkSafe, utils/guard_model.py: a tie is safe), and counted.
    """

    name: str
    original: SelfTrace
    guard: Guard
    may_lose: Share = 0.1
    continues: Sequence[Label] = ("harmful", "benign")

    traces: Literal["backbone"] = "backbone"

    def __post_init__(self) -> None:
        if self.guard.says != "unsafe":
            raise ValueError(
                f"rewrite.guard={self.guard.name}: says {self.guard.says!r}; accepted: a judge that says 'unsafe', "
                "such as judge@rewrite.guard=llama_guard_3"
            )

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """The example with what the backbone wrote."""
        return _as_it_is(example)

    def parse(self, thought: str) -> tuple[Segment, ...]:
        """The whole trace is the reasoning."""
        return (Segment("reasoning", thought, "parsed"),)


@dataclass(frozen=True)
class PromptSide(AsAsked):
    """A defence in the prompt, without training: a system prompt, a form around the user's message, or turns before it.

    The model answers each turn of `before` in its own words, and then the message in its form; either holds the
    message. Earlier turns of a dialogue are then asked as they are.
    """

    name: str
    system: str | None = None
    prompt_form: str = SLOT
    before: Sequence[str] = ()

    def __post_init__(self) -> None:
        slots = [form.count(SLOT) for form in (*self.before, self.prompt_form)]
        if max(slots) > 1 or not any(slots):
            raise ValueError(
                f"rewrite.prompt_form and rewrite.before must hold {SLOT}, none of them twice; found "
                f"{self.prompt_form!r} and {list(self.before)!r}"
            )
        if self.system is None and self.prompt_form == SLOT and not self.before:
            raise ValueError("rewrite.system, rewrite.prompt_form and rewrite.before change nothing; set one of them")

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """Nothing to train on."""
        return Rejected(example.id, f"{self.name} works on the prompt and trains nothing; choose training=none")

    def parse(self, thought: str) -> tuple[Segment, ...]:
        """No step is prescribed: the whole thought is reasoning."""
        return (Segment("reasoning", thought, "parsed"),) if thought else ()


@dataclass(frozen=True)
class Untouched(AsAsked):
    """Examples as the dataset has them, with the dataset's own traces if it has any."""

    name: str

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """The example itself."""
        return replace(example, trace_hash=trace_hash(example))

    def parse(self, thought: str) -> tuple[Segment, ...]:
        """The whole trace is reasoning."""
        return (Segment("reasoning", thought, "parsed"),) if thought else ()


def _as_it_is(example: Example, shapes: Sequence[Shape] = ("thought_and_answer",)) -> Example | Rejected:
    if example.shape not in shapes:
        return Rejected(example.id, f"the example is {_SHAPES[example.shape]}, and {_asked_for(shapes)} is asked for")
    return replace(example, trace_hash=trace_hash(example))


_SHAPES: dict[Shape, str] = {
    "thought_and_answer": "a thought and an answer",
    "thought_only": "a thought without an answer",
    "answer_only": "an answer without a thought",
    "opening": "the opening of a thought",
    "prompt_only": "a prompt alone",
}


def _asked_for(shapes: Sequence[Shape]) -> str:
    return " or ".join(_SHAPES[shape] for shape in shapes)


def _check_traces(structure: AltTrain | Plain) -> None:
    if structure.traces == "backbone" and structure.original is None:
        raise ValueError("rewrite.traces=backbone: the backbone is asked for them by rewrite.original, which is null")
