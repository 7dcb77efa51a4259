"""Reasoning structures: each turns an Example into the Example to train on, or rejects it with the reason.

- `AltTrain`       understanding, assessment, then refuse or reason on (In et al., ACL 2026); each step is a switch
- `Plain`          the original traces and answers: the control on the same prompts, and SafeChain's and STAR-1's rows
- `DirectRefusal`  a fixed thought and a refusal, on the harmful prompts alone
- `SafePath`       a fixed primer that opens the thought, and nothing else
- `PromptSide`     no training: a system prompt, or a form around the user's message
- `Untouched`      the examples as they are

A structure says for which labels it needs an original trace and answer (`continues`), and who writes its assessment
(`teacher`); the rewrite stage sees to it that they are there. `parse` of a structure is the exact inverse of rendering
what it rewrote. `trace_hash` of a rewritten example is that of the original it started from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from alttrain.records import Example, Label, Rejected, Segment, Step
from alttrain.rewrite.original import SelfTrace, trace_hash
from alttrain.rewrite.parser import SEPARATOR
from alttrain.rewrite.teachers import Teacher, Understander
from alttrain.rewrite.understanding import Understanding
from alttrain.rewrite.wording import REPHRASED_STOPS, STOPS, choose, refusal

SLOT = "{prompt}"
StepSwitch = Literal["understanding", "assessment", "reasoning"]
"""A step that can be left out or moved; `reasoning` is the conditional reasoning, a refusal for a harmful example."""


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
    teacher: Teacher | None = None
    understander: Understander | None = None
    system: str | None = None
    prompt_form: str = SLOT

    def prompt(self, message: str) -> str:
        """The user's message as the model is asked it."""
        return self.prompt_form.replace(SLOT, message)


@dataclass(frozen=True)
class AltTrain(AsAsked):
    """Problem understanding -> harmfulness assessment -> conditional reasoning (refuse, or reason on).

    `steps` are the steps of the thought in their order. A step that is left out is out of the thought, the rest stays
    as it was, byte for byte. Without understanding the trace's own is taken out, too (`understanding=None` would leave
    it in). Without conditional reasoning the thought ends before it: a harmful example is refused in the answer alone,
    a benign one has its answer follow at once, and so has one whose trace was its understanding alone. `understander`
    writes the understanding of rows without a trace, where a rule is not to. `stops` are the sentences that end a
    harmful thought: a pool by name, or the sentences themselves.
    """

    name: str
    understanding: Understanding | None
    teacher: Teacher | None = None
    original: SelfTrace | None = None
    steps: Sequence[StepSwitch] = ("understanding", "assessment", "reasoning")
    stops: Literal["template", "rephrased"] | Sequence[str] = "template"
    continues: Sequence[Label] = ("benign",)
    understander: Understander | None = None

    def __post_init__(self) -> None:
        if not self.steps or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"rewrite.steps={list(self.steps)}: one or more steps are needed, each once")
        if ("assessment" in self.steps) != (self.teacher is not None):
            remedy = "set rewrite.teacher=null" if self.teacher else "an assessment needs rewrite.teacher"
            raise ValueError(f"rewrite.steps={list(self.steps)}: {remedy}")
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
    """The original traces and answers, no step added: rows without are rejected.

    On AltTrain's prompts it is the control that tells the structure from the fine-tuning; `original` then asks the
    backbone for what the benign ones lack, as AltTrain does.
    """

    name: str
    original: SelfTrace | None = None

    @property
    def continues(self) -> Sequence[Label]:  # type: ignore[override]
        """Benign examples, where the backbone is asked at all."""
        return ("benign",) if self.original else ()

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """The example itself."""
        return _as_it_is(example)

    def parse(self, thought: str) -> tuple[Segment, ...]:
        """The whole trace is the reasoning."""
        return (Segment("reasoning", thought, "parsed"),)


@dataclass(frozen=True)
class DirectRefusal(AsAsked):
    """A fixed one-line thought and a refusal, for harmful prompts only: the DirectRefusal baseline."""

    name: str
    thought: str

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """The refused example; benign ones are not part of this structure."""
        if example.label != "harmful":
            return Rejected(example.id, "DirectRefusal trains on harmful prompts only")
        thought = (Segment("refusal", self.thought, "template"),)
        return replace(example, thought=thought, answer=refusal(example, seed), trace_hash=trace_hash(example))

    def parse(self, thought: str) -> tuple[Segment, ...]:
        """The whole thought is the refusal."""
        return (Segment("refusal", thought, "parsed"),)


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
class PromptSide(AsAsked):
    """A defence in the prompt, without training: a system prompt, a form around the user's message, or both."""

    name: str
    system: str | None = None
    prompt_form: str = SLOT

    def __post_init__(self) -> None:
        if self.prompt_form.count(SLOT) != 1:
            raise ValueError(f"rewrite.prompt_form must hold {SLOT} exactly once, found {self.prompt_form!r}")
        if self.system is None and self.prompt_form == SLOT:
            raise ValueError("rewrite.system and rewrite.prompt_form change nothing; set one of them")

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


def _as_it_is(example: Example) -> Example | Rejected:
    if not example.thought or not example.answer:
        return Rejected(example.id, "the example has no original trace and answer")
    return replace(example, trace_hash=trace_hash(example))
