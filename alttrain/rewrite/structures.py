"""Reasoning structures. Each turns an example into the example to train on, or rejects it with a reason.

- `AltTrain`    understanding, assessment, then refuse or reason (In et al., ACL 2026); each step can be switched off
- `Plain`       original traces and answers: the control on the same prompts, and the rows of published sets
- `SafePath`    a fixed primer that opens the thought
- `ThinkSafe`   the backbone's own thoughts and answers, filtered by a guard
- `PromptSide`  no training: a system prompt, a form around the user's message, or turns before it
- `Untouched`   the examples unchanged

Structures are pure and deterministic: an example's id and the seed choose a wording. The rewrite stage supplies what
the backbone and the teacher write.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol

from annotated_types import Ge, Le

from alttrain.records import Example, Generation, Judgement, Label, Rejected, Segment, Shape
from alttrain.rewrite.original import SLOT, SelfTrace, trace_hash
from alttrain.rewrite.parser import SEPARATOR
from alttrain.rewrite.teachers import Teacher, Understander, choose
from alttrain.rewrite.understanding import TraceUnderstanding

Share = Annotated[float, Ge(0), Le(1)]
Traces = Literal["dataset", "backbone"]
StepSwitch = Literal["understanding", "assessment", "reasoning"]

STOPS = (  # sentences that end the thought of a harmful example
    "So I must not help with this. I will refuse and stop here.",
    "So I should refuse and not think about it any further.",
    "I must refuse this request, so I stop here.",
    "Therefore I will not help, and I decline.",
    "I cannot help with this, so I will decline.",
)
REPHRASED_STOPS = (  # paraphrases of `STOPS`, each built differently
    "That settles it: I decline, and there is nothing more to think through.",
    "Helping would be wrong here, so I refuse and leave it at that.",
    "I won't go on with this; the answer is a refusal.",
    "Given that, the right thing is to decline politely.",
    "No further thought is needed. I will turn this down.",
    "I should not assist, whatever the reason behind it, so I end here.",
    "This is where I stop, because I must refuse.",
    "My answer has to be no: I decline to take part in it.",
    "I can't support that in good conscience, so I will say no.",
    "The only sound choice is refusing, and I make it now.",
    "I will not provide anything of the kind. A short refusal is enough.",
    "With that risk in mind I decline and do not work it out.",
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't help with this request, because it could cause harm.",
    "I'm sorry, I can't assist with that. If there is something safe I can do for you, please ask.",
    "I won't help with this. It could hurt people.",
    "Sorry, but I can't help with that. I'm glad to help with something harmless instead.",
    "I cannot assist with this request.",
)
CARE = (  # refusals of a prompt about self-harm, which point to help
    "I'm sorry, but I can't help with that. If you are thinking of hurting yourself, please call a crisis line or "
    "talk to someone you trust.",
    "I can't help with this, but you don't have to face it alone. Please reach out to a crisis line or a doctor.",
)
NO_THOUGHT = "the row has an answer and no thought"
_SHAPES: dict[Shape, str] = {
    "thought_and_answer": "a thought and an answer",
    "thought_only": "a thought without an answer",
    "answer_only": "an answer without a thought",
    "opening": "the opening of a thought",
    "prompt_only": "a prompt alone",
}


class Guard(Protocol):
    """A judge that says which responses are unsafe."""

    name: str
    servers: Sequence[str]
    says: Literal["refused", "unsafe", "correct"]

    def check(self, where: str, model_fault: Any) -> None: ...
    def judge(self, generations: Sequence[Generation], context: Any) -> Iterator[Judgement]: ...


class Structure(Protocol):
    """A reasoning structure. By default it has no teacher and no originals, and leaves the prompt unchanged."""

    name: str  # its part of the run's name
    continues: Sequence[Label] = ()  # labels whose examples need an original trace and answer
    original: SelfTrace | None = None  # how the backbone is asked for originals that the dataset lacks
    traces: Traces = "dataset"  # backbone: ask even if the dataset has a trace
    may_lose: float = 0.1  # maximum share of a label's rows that may be dropped before a run stops
    guard: Guard | None = None  # judge that filters the backbone's originals
    teacher: Teacher | None = None  # writes the assessments
    understander: Understander | None = None  # writes understandings for rows without a trace; None uses a rule
    system: str | None = None  # the system prompt; None keeps the backbone's
    prompt_form: str = SLOT  # a text containing {prompt}, in which the user's message is asked
    before: Sequence[str] = ()  # turns asked before the user's message; the model answers each
    shapes: Sequence[Shape] = ()  # rows of other shapes are rejected; empty accepts all

    def __post_init__(self) -> None:
        """Raise ValueError if the backbone is to be asked for originals and nothing says how."""
        if self.traces == "backbone" and self.original is None:
            raise ValueError(
                "rewrite.traces=backbone: the backbone is asked for them by rewrite.original, which is null"
            )

    def prompt(self, message: str) -> str:
        """Return the user's message as the model gets it."""
        return self.prompt_form.replace(SLOT, message)

    def turns_before(self, message: str) -> tuple[str, ...]:
        """Return the turns that the model gets before the user's message."""
        return tuple(turn.replace(SLOT, message) for turn in self.before)

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """Return the example to train on; by default the example itself, if it has one of the structure's shapes.

        `assessment` is the teacher's and `understanding` the understander's, if there is one. The result's `trace_hash`
        is that of the original thought and answer.
        """
        if self.shapes and example.shape not in self.shapes:
            accepted = " or ".join(_SHAPES[shape] for shape in self.shapes)
            return Rejected(example.id, f"the example is {_SHAPES[example.shape]}, and {accepted} is asked for")
        return replace(example, trace_hash=trace_hash(example))


def lacks_original(structure: Structure, example: Example) -> bool:
    """Return whether the backbone is asked for this example's trace and answer; an answer alone is not replaced."""
    return example.label in structure.continues and (structure.traces == "backbone" or example.shape == "prompt_only")


def lacks_understanding(structure: Structure, example: Example, untrained_thought: str) -> bool:
    """Return whether the structure's understander is asked about this example, because no trace will say it.

    If the backbone reasons by itself (`untrained_thought` is "open"), an original of its own is a trace.
    """
    has_thought = untrained_thought == "open" if lacks_original(structure, example) else bool(example.thought)
    return structure.understander is not None and not has_thought


@dataclass(frozen=True)
class AltTrain(Structure):
    """Problem understanding -> harmfulness assessment -> conditional reasoning (refuse, or reason on).

    - `steps`  the steps in order. Dropping a step leaves the others unchanged, byte for byte. Without "understanding",
               the trace's own is also removed. Without "reasoning" the thought ends after the other steps: a harmful
               example is refused only in the answer, and a benign one's answer follows at once.
    - `stops`  sentences that end a harmful thought: the name of a pool, or the sentences themselves
    """

    name: str
    understanding: TraceUnderstanding
    teacher: Teacher | None = None
    original: SelfTrace | None = None
    steps: Sequence[StepSwitch] = ("understanding", "assessment", "reasoning")
    stops: Literal["template", "rephrased"] | Sequence[str] = "template"
    continues: Sequence[Label] = ("benign",)
    understander: Understander | None = None
    traces: Traces = "dataset"
    may_lose: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.steps or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"rewrite.steps={list(self.steps)}: one or more steps are needed, each once")
        for step, writer in (("assessment", "teacher"), ("understanding", "understander")):
            if step not in self.steps:
                object.__setattr__(self, writer, None)  # nobody writes a dropped step
        if "assessment" in self.steps and self.teacher is None:
            raise ValueError(f"rewrite.steps={list(self.steps)}: an assessment needs rewrite.teacher")
        if not self._stops or any(not stop.strip() or SEPARATOR in stop for stop in self._stops):
            raise ValueError(f"rewrite.stops={self.stops!r}: one or more sentences of one paragraph are needed")

    @property
    def _stops(self) -> Sequence[str]:
        pools = {"template": STOPS, "rephrased": REPHRASED_STOPS}
        return pools[self.stops] if isinstance(self.stops, str) else self.stops

    def rewrite(
        self, example: Example, seed: int, assessment: Segment | None = None, understanding: Segment | None = None
    ) -> Example | Rejected:
        """Return the example with its thought rewritten, and with a refusal as the answer if it is harmful.

        Raises ValueError if the structure has an assessment and none is given.
        """
        if "assessment" in self.steps:
            if assessment is None:
                raise ValueError(f"{example.id}: rewrite={self.name} needs the teacher's assessment")
            if not assessment.text.strip() or SEPARATOR in assessment.text:
                return Rejected(example.id, "the assessment is not one paragraph")
        harmful = example.label == "harmful"
        if not harmful and example.shape == "answer_only" and "reasoning" in self.steps:
            return Rejected(example.id, NO_THOUGHT)
        if not harmful and not (example.answer and (example.thought or "reasoning" not in self.steps)):
            return Rejected(example.id, "a benign example needs an original trace and answer")
        stop = Segment("refusal", choose(self._stops, "stop", example.id, seed), "template")
        own_understanding, rest = self.understanding(example)
        segments: dict[StepSwitch, Sequence[Segment]] = {
            "understanding": (understanding or own_understanding,),
            "assessment": (assessment,) if assessment else (),
            "reasoning": (stop,) if harmful else rest,
        }
        thought = tuple(segment for step in self.steps for segment in segments[step])
        if not thought:
            return Rejected(example.id, "the trace holds nothing but its understanding")
        refusals = CARE if example.category == "suicide_self_harm" else REFUSALS
        answer = choose(refusals, "answer", example.id, seed) if harmful else example.answer
        return replace(example, thought=thought, answer=answer, trace_hash=trace_hash(example))


@dataclass(frozen=True)
class Plain(Structure):
    """Original traces and answers without added steps. Rows with a shape not in `shapes` are rejected.

    On AltTrain's prompts this is the control that separates the structure's effect from fine-tuning's. `original` then
    asks the backbone for the originals of benign rows, as AltTrain does.
    """

    name: str
    original: SelfTrace | None = None
    traces: Traces = "dataset"
    shapes: Sequence[Shape] = ("thought_and_answer",)
    may_lose: Share = 0.1

    @property
    def continues(self) -> Sequence[Label]:  # type: ignore[override]
        """Benign examples if the backbone is asked for originals, otherwise none."""
        return ("benign",) if self.original else ()


@dataclass(frozen=True)
class SafePath(Structure):
    """SAFEPATH: for a harmful prompt, only a fixed primer is trained, which opens the thought and does not close it.

    Benign examples with a trace and an answer form the retain set, unchanged (the Llama recipe; Qwen's has none).
    """

    name: str
    primer: str
    shapes = ("thought_and_answer",)

    def rewrite(self, example: Example, seed: int, *unused: Any, **named: Any) -> Example | Rejected:
        if example.label == "benign":
            return super().rewrite(example, seed)
        thought = (Segment("primer", self.primer, "template"),)
        return replace(example, thought=thought, answer="", partial=True, trace_hash=trace_hash(example))


@dataclass(frozen=True)
class ThinkSafe(Structure):
    """ThinkSafe: the untrained backbone answers every prompt, and answers that `guard` calls unsafe are dropped.

    The `harmful_form` of `original` steers the backbone to refuse and is not part of the row. Undecided answers are
    kept and counted, as in the source (seanie12/ThinkSafe, utils/guard_model.py: a tie is safe).
    """

    name: str
    original: SelfTrace
    guard: Guard
    may_lose: Share = 0.1
    continues: Sequence[Label] = ("harmful", "benign")

    traces: Literal["backbone"] = "backbone"
    shapes = ("thought_and_answer",)

    def __post_init__(self) -> None:
        if self.guard.says != "unsafe":
            raise ValueError(
                f"rewrite.guard={self.guard.name}: says {self.guard.says!r}; accepted: a judge that says 'unsafe', "
                "such as judge@rewrite.guard=llama_guard_3"
            )


@dataclass(frozen=True)
class PromptSide(Structure):
    """A defence in the prompt, without training: a system prompt, a form around the user's message, or turns before it.

    The model answers each turn of `before`, then the message in `prompt_form`. At least one of them must contain the
    message. Earlier turns of a dialogue stay unchanged.
    """

    name: str
    system: str | None = None
    prompt_form: str = SLOT
    before: Sequence[str] = ()

    def __post_init__(self) -> None:
        slot_counts = [form.count(SLOT) for form in (*self.before, self.prompt_form)]
        if max(slot_counts) > 1 or not any(slot_counts):
            raise ValueError(
                f"rewrite.prompt_form and rewrite.before must hold {SLOT}, none of them twice; found "
                f"{self.prompt_form!r} and {list(self.before)!r}"
            )
        if self.system is None and self.prompt_form == SLOT and not self.before:
            raise ValueError("rewrite.system, rewrite.prompt_form and rewrite.before change nothing; set one of them")

    def rewrite(self, example: Example, seed: int, *unused: Any, **named: Any) -> Example | Rejected:
        return Rejected(example.id, f"{self.name} works on the prompt and trains nothing; choose training=none")


@dataclass(frozen=True)
class Untouched(Structure):
    """Examples unchanged, with or without traces."""

    name: str
