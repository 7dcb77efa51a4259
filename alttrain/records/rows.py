"""What the rows are: frozen dataclasses of JSON values, and whose texts of them are shown."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, lt=2**53)]
Label = Literal["harmful", "benign"]
Step = Literal["understanding", "assessment", "reasoning", "refusal", "primer"]
"""The steps of a thought: problem understanding (PU), harmfulness assessment (HA), and conditional reasoning (CR),
which is either `reasoning` on or a `refusal`. A `primer` is a fixed opening after which the model is on its own."""
Shape = Literal["thought_and_answer", "thought_only", "answer_only", "opening", "prompt_only"]
"""What a row has of a response. With `thought_only` the turn ends where the thought is closed; `answer_only` is trained
on after an empty thought; an `opening` is neither closed nor ended; `prompt_only` is nothing to train on."""


@dataclass(frozen=True)
class Segment:
    """One step of a thought, and where its text came from ("trace", "template", "teacher:NAME").

    `prompt_hash` is the hash of the prompt a teacher was asked with, where it was asked.
    """

    step: Step
    text: str
    origin: str = ""
    prompt_hash: str = ""


@dataclass(frozen=True)
class Example:
    """A prompt with its label and, where known, the thought and the answer it should be trained on.

    `turns` are the user's earlier messages of a multi-turn dialogue, oldest first; `prompt` is the last one. `goal` is
    what an attack is after, in plain words, where the set tells it. `trace_hash` is the hash of the original thought
    and answer a rewrite started from. A `partial` example trains only the opening of a thought: the thought is not
    closed, and no answer follows. `key_sentence` is the one that says whether the request is harmful, where the data
    marks it.
    """

    id: str
    prompt: str
    label: Label
    category: str = ""
    phrasing: str = ""
    thought: tuple[Segment, ...] = ()
    answer: str = ""
    gold: tuple[str, ...] = ()
    source: str = ""
    trace_hash: str = ""
    partial: bool = False
    turns: tuple[str, ...] = ()
    goal: str = ""
    key_sentence: str = ""

    @property
    def shape(self) -> Shape:
        """What the example has of a response."""
        thought = any(segment.text for segment in self.thought)
        return "opening" if self.partial and thought else shape_of(thought, bool(self.answer))


def shape_of(thought: bool, answer: bool) -> Shape:
    """The shape of a response that has a thought, an answer, both or neither."""
    if thought:
        return "thought_and_answer" if answer else "thought_only"
    return "answer_only" if answer else "prompt_only"


@dataclass(frozen=True)
class Rejected:
    """An example that could not be used, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Generation:
    """What a model wrote for one prompt. `closed` is False where the thought never ended: then there is no answer.

    `finish` is "stop" where the model ended its turn, "length" where the token cap cut it, "error" where a server would
    not answer this prompt, for the reason in `error`: such a row is in no rate, and counts as undecided. `sample`
    counts the texts of one prompt where several are drawn; a row is known by (id, sample). `turns` are the user's
    earlier messages of a dialogue, `earlier` the model's answers to them and to the turns a defence puts before the
    prompt, `goal` what an attack is after. `checksum` is that of the row, written where it is appended to a file.
    """

    id: str
    prompt: str
    label: Label
    category: str
    gold: tuple[str, ...]
    text: str
    thought: str
    answer: str
    closed: bool
    finish: Literal["stop", "length", "error"]
    thought_tokens: Count
    answer_tokens: Count
    sample: Count = 0
    earlier: tuple[str, ...] = ()
    error: str = ""
    turns: tuple[str, ...] = ()
    goal: str = ""
    checksum: str = field(default="", compare=False)


@dataclass(frozen=True)
class Judgement:
    """One judge's verdict on one generation: True, False, or None where the judge could not decide.

    The meaning of True is the judge's (`refused`, `correct`, `unsafe`); `evidence` is the phrase or value the verdict
    rests on. `probability` is the judge's of its verdict being True, `value` a graded score of 0 to 1 (F1, ROUGE, a
    rubric), `raw` what a judge that is a model wrote, `served` the name its server gives itself; `error` says why there
    is no verdict. `part` is the text that was judged: the answer, the thought, or both. `hash` is that of the
    generation that was judged: a verdict holds for this prompt and text, and for no other. `checksum` is as a
    generation's.
    """

    id: str
    judge: str
    verdict: bool | None
    evidence: str = ""
    error: str = ""
    probability: float | None = None
    value: float | None = None
    raw: str = ""
    part: str = "answer"
    sample: int = 0
    served: str = ""
    hash: str = ""
    checksum: str = field(default="", compare=False)


Texts = Literal["all", "benign", "none"]
"""Whose prompts and outputs a page or a logger holds: all samples', those of harmless samples, or nobody's."""


def withholds(texts: Texts, harmful: bool) -> bool:
    """Whether a sample's texts are left out."""
    return texts == "none" or (texts == "benign" and harmful)
