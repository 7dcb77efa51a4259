"""Interventions: what is done to a prompt, or written into the response, before the backbone goes on.

A benchmark under an intervention has a name of its own, BENCHMARK+INTERVENTION, and its own folder, next to
that of the benchmark without it. The two are compared prompt by prompt (`alttrain.report.contrasts.interventions`).

- `Begin`      a fixed beginning: of a thought (SAFEPATH's primer, Jeung et al., 2025), of the answer (prefilling,
               Andriushchenko et al., 2024), or an empty thought (Ma et al., 2025)
- `Prefill`    the beginning of another run's thought (RECAP, Peng et al., 2025), or of the run's own; where the answer
               refuses, it may be put back
- `Cut`        the run's own thought, ended early (Lanham et al., 2023: early answering)
- `Step`       one step of the run's own thought deleted, swapped with another prompt's, or turned round
- `More`       the end of the thought taken back (s1's budget forcing, Muennighoff et al., 2025)
- `Around`     a text around the message, another system prompt, no chat template, or another family's
- `Encoded`    the message in a cipher (CipherChat, Yuan et al., 2024), or in one of its own (Handa et al., 2024)
- `ManyShot`   other prompts, each with an answer that complies, before the message (many-shot jailbreaking, Anil et
               al., 2024)

An intervention either returns the beginning of the response (`begin`), or changes the message (`message`). It is
deterministic: the prompt and `seed` decide. A beginning counts towards the cap on new tokens. Prompts that it
cannot apply to, such as those whose thought has no assessment, are left out and counted.
"""

import base64
import codecs
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from string import ascii_lowercase
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from alttrain.backbone import ChatTemplate, Rendered, ThoughtMode
from alttrain.english import sentences
from alttrain.english.refusal import judge_refusal
from alttrain.records import Example, Generation
from alttrain.rewrite.parser import SEPARATOR, read_thought
from alttrain.rewrite.teachers import choose

JOIN = "+"  # between the names of a benchmark and of an intervention
AHEAD = 20  # characters of what follows that decide into which tokens a beginning is split
TURNS = ("system", "without_system", "user", "assistant", "answered", "end", "turn_end")
"""The fields of a chat template that are of its turns, not of the thought."""
Part = Literal["understanding", "assessment", "decision"]
"""A step of a thought. The decision is the refusal or the reasoning that ends it."""
Span = tuple[str, int, int]  # what a step says, and where it starts and ends in the thought, in characters


@dataclass(frozen=True)
class Beginning:
    """The beginning of a response: a thought, the delimiter that closes it ("" leaves it open), and an answer.

    `then` is how the response is expected to go on. It only decides into which tokens the end of the beginning is split
    (`Renderer.begin`), and is not part of it.
    """

    thought: str = ""
    close: str = ""
    answer: str = ""
    then: str = ""

    def render(self, template: ChatTemplate, mode: ThoughtMode) -> Rendered:
        """The text that follows the prompt. If the model opens thoughts, the opening delimiter comes first.

        It is the thought's own if the thought begins with one (`InterventionContext.raw`).
        """
        opens = mode == "open" and template.opened_by == "model" and bool(self.thought or self.close)
        opening, thought = template.think_open if opens else "", self.thought
        if opens and thought.lstrip().startswith(opening.strip()):
            length = thought.index(opening.strip()) + len(opening.strip())
            opening, thought = thought[:length], thought[length:]
        return Rendered(opening, thought, self.close, self.answer)


@dataclass(frozen=True)
class InterventionContext:
    """What an intervention may look at: the template, how a prompt ends, and a run's responses to the benchmark."""

    template: ChatTemplate
    mode: ThoughtMode
    responses: Mapping[tuple[str, int], Generation]

    def close_thought(self, thought: str) -> Beginning:
        """The thought, closed as in training. The answer is expected to begin with a word."""
        return Beginning(thought, self.template.closing(thought), then="I")

    def raw(self, response: Generation) -> str:
        """A response as the model wrote it, without the opening delimiter if `Beginning.render` adds just that one."""
        opening, text = self.template.think_open, response.text
        bare = text.removeprefix(opening) if self.template.opened_by == "model" else text
        return text if bare.lstrip().startswith(opening.strip()) else bare

    def closed_thought(self, response: Generation) -> Beginning:
        """A closed thought as the model wrote it, with its delimiter and the line breaks around it."""
        delimiter = self.template.think_close.strip()
        thought, _, following = self.raw(response).rpartition(delimiter)
        text = thought.rstrip("\n")
        breaks = len(following) - len(following.lstrip("\n"))
        return Beginning(text, thought[len(text) :] + delimiter + following[:breaks], then=following[breaks:][:AHEAD])

    @cached_property
    def complying(self) -> Sequence[Generation]:
        """The first response to each prompt, where its answer does not refuse by the packaged judge of refusals."""
        first = [response for response in self.responses.values() if not response.sample]
        return [response for response in first if judge_refusal(response.answer, response.prompt) is False]

    @cached_property
    def steps(self) -> Mapping[Part, Mapping[tuple[str, int], str]]:
        """The text of each step of each response, by step and response, in the order of the responses."""
        steps: dict[Part, dict[tuple[str, int], str]] = {"understanding": {}, "assessment": {}, "decision": {}}
        for key, response in self.responses.items():
            for part in steps:
                if span := step_of(response.thought, part):
                    steps[part][key] = response.thought[span[1] : span[2]]
        return steps


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """The interface: by default nothing is changed.

    `mode` is how a prompt ends; None is as the run's prompts do. `source` is the name of the run whose responses are
    read, None for the run's own. `system` replaces the system prompt; "" is none.
    """

    source: str | None = None
    system: str | None = None
    mode: ThoughtMode | None = None
    seed: int = 0

    # the kinds of benchmarks that it applies to
    kinds: ClassVar[Sequence[str]] = ("harm", "over_refusal", "maths", "code", "knowledge", "summary")
    thinks: ClassVar[bool] = False  # whether it needs a backbone that thinks
    reads: ClassVar[bool] = True  # whether it reads the run's own responses, or those of `source`
    reads_others: ClassVar[bool] = False  # whether what it does to a prompt depends on responses to other prompts
    rounds: ClassVar[int] = 1  # how often `begin` is called, each time with the response so far
    chat: ClassVar[bool] = True  # whether the message is put into the chat template
    converse: ClassVar[Any] = None  # of a live attack: lets a model write the messages (`Crescendo.converse`)
    requests: ClassVar[int] = 0  # the most requests to servers for one prompt

    @property
    def responses(self) -> int:
        """The most responses of the model to one prompt, as the plan counts them."""
        return self.rounds

    def check(self, where: str, model_fault: Any) -> None:
        """Raise ValueError, naming the config key below `where`, if a server or a judge's model is not available.

        `model_fault` is as for a judge's `check`.
        """

    def message(self, message: str, row: Example, context: InterventionContext) -> str:
        """The user's last message."""
        return message

    def template_for(self, template: ChatTemplate) -> ChatTemplate:
        """The chat template that the prompt is rendered with. `template` is the backbone's."""
        return template

    def begin(self, row: Example, response: Any, context: InterventionContext) -> Beginning | None:
        """The beginning of the response; None if the intervention does not apply.

        `response` is the run's own, a `Generation`; it may be None if the intervention does not read it. In later
        rounds it is the response so far, and None leaves that as it is.
        """
        return Beginning()


@dataclass(frozen=True, kw_only=True)
class Begin(Intervention):
    """A fixed beginning. With an `answer`, or if `closed`, the thought ends after `thought`."""

    thought: str = ""
    closed: bool = False
    answer: str = ""

    reads = False

    @property
    def thinks(self) -> bool:  # type: ignore[override]
        return bool(self.thought or self.closed)

    def begin(self, row: Example, response: Any, context: InterventionContext) -> Beginning:
        closed = context.mode == "open" and bool(self.closed or self.answer)
        begun = context.close_thought(self.thought) if closed else Beginning(self.thought)
        return replace(begun, answer=self.answer, then="" if self.answer else begun.then)


@dataclass(frozen=True, kw_only=True)
class Prefill(Intervention):
    """The first `words` words of the source's thought, by default all of them.

    Where the answer then refuses, the model's thought is kept, and `text` and the same words follow it: at most `times`
    times.
    """

    words: Annotated[int, Gt(0)] | None = None
    times: Annotated[int, Ge(0)] = 0
    text: str = ""

    thinks = True

    @property
    def rounds(self) -> int:  # type: ignore[override]
        return self.times + 1

    def begin(self, row: Example, response: Any, context: InterventionContext) -> Beginning | None:
        """It is cut at the end of the last word. None if the source has no thought on this prompt."""
        source = context.responses.get((response.id, response.sample))
        if source is None or not source.thought or (source.prompt, source.turns) != (response.prompt, response.turns):
            return None
        ends = [word.end() for word in re.finditer(r"\S+", source.thought)]
        ends[-1:] = [len(source.thought)]
        length = ends[: self.words][-1]
        prefix, then = source.thought[:length], source.thought[length:][:AHEAD]
        if not response.given:
            return Beginning(prefix, then=then)
        if not response.closed or not judge_refusal(response.answer, response.prompt):
            return None
        before = context.closed_thought(response).thought.rstrip()
        return Beginning(SEPARATOR.join(filter(None, [before, self.text, prefix])), then=then)


@dataclass(frozen=True, kw_only=True)
class Cut(Intervention):
    """The run's own thought, ended after the first `share` of its sentences, rounded down to whole ones.

    At 1 it is as the model wrote it.
    """

    share: Annotated[float, Ge(0), Le(1)]

    thinks = True

    def begin(self, row: Example, response: Any, context: InterventionContext) -> Beginning | None:
        """None if the thought is empty or never ended, so that there is no outcome without the cut."""
        if not response.thought or not response.closed:
            return None
        if self.share == 1:
            return context.closed_thought(response)
        raw = context.raw(response)
        ends = [0, *(end for _, end in sentences(response.thought))]
        kept = int(self.share * (len(ends) - 1) + 1e-9)  # 0.7 of ten sentences are seven, whatever floats make of it
        beginning = raw[: raw.index(response.thought) + ends[kept]].rstrip()
        return context.close_thought(beginning)


@dataclass(frozen=True, kw_only=True)
class Step(Intervention):
    """One step of the run's own thought: the same again, deleted, swapped, or turned round.

    - `same`    the thought up to the end of the step, as it was: the control of the next two
    - `swap`    with the step of another prompt of the benchmark, drawn by seed; then the model goes on
    - `turn`    with one of `instead`, by what the step says: harmful, benign, refusal or reasoning; then it goes on
    - `delete`  the rest of the thought stays as it is, and the model answers
    """

    step: Part
    how: Literal["same", "swap", "turn", "delete"]
    instead: Mapping[Literal["harmful", "benign", "refusal", "reasoning"], Sequence[str]] = field(default_factory=dict)

    thinks = True

    def begin(self, row: Example, response: Any, context: InterventionContext) -> Beginning | None:
        """None if the thought lacks the step, nothing is to swap it with, or `instead` has nothing for it."""
        if not response.closed or (span := step_of(response.thought, self.step)) is None:
            return None
        says, start, end = span
        raw = context.raw(response)
        offset = raw.index(response.thought)
        before, after, then = raw[: offset + start], response.thought[end:], raw[offset + end :][:AHEAD]
        if self.how == "same":
            return Beginning(raw[: offset + end], then=then)
        if self.how == "delete":
            thought = (before + after.lstrip()).rstrip()
            return context.close_thought(thought)
        if self.how == "turn":
            texts: Sequence[str] = self.instead.get(says, ())  # type: ignore[call-overload]
        else:
            texts = [text for (name, _), text in context.steps[self.step].items() if name != row.id]
        return Beginning(before + choose(texts, self.seed, row.id), then=then) if texts else None


@dataclass(frozen=True, kw_only=True)
class More(Intervention):
    """The end of the thought is taken back `times` times, and `text` is written there."""

    times: Annotated[int, Gt(0)] = 1
    text: str = "Wait"

    thinks = True

    @property
    def rounds(self) -> int:  # type: ignore[override]
        return self.times

    def begin(self, row: Example, response: Any, context: InterventionContext) -> Beginning | None:
        """None if the thought never ended."""
        if not response.closed or not response.thought:
            return None
        return Beginning(context.closed_thought(response).thought.rstrip() + SEPARATOR + self.text)


@dataclass(frozen=True, kw_only=True)
class Around(Intervention):
    """A `form` around the message, with {prompt} in it once. With `mode` absent, the prompt opens no thought.

    `template` none gives the message without a template. With another family's template, the turns are as there; the
    beginning token and the thought's delimiters are the backbone's, so that thought and answer are separated as usual.
    """

    form: str = "{prompt}"
    template: Literal["own", "none"] | ChatTemplate = "own"

    reads = False

    def __post_init__(self) -> None:
        if self.form.count("{prompt}") != 1:
            raise ValueError(f"form={self.form!r}: accepted: a text with {{prompt}} in it once")

    @property
    def chat(self) -> bool:  # type: ignore[override]
        return self.template != "none"

    @property
    def thinks(self) -> bool:  # type: ignore[override]
        return self.chat and self.mode == "absent"

    def template_for(self, template: ChatTemplate) -> ChatTemplate:
        if isinstance(self.template, str):
            return template
        return replace(template, **{name: getattr(self.template, name) for name in TURNS})

    def begin(self, row: Example, response: Any, context: InterventionContext) -> Beginning | None:
        """None for a dialogue without a template, since its turns would be lost, and where the prompt stays the same.

        That is with the backbone's own family, and without a think tag if prompts have none: the model opens thoughts.
        """
        template, own = self.template_for(context.template), context.template
        same = not isinstance(self.template, str) and replace(template, without_system=own.without_system) == own
        untagged = self.thinks and template.prompt("", None, "absent") == template.prompt("", None, "open")
        return None if same or untagged or (row.turns and not self.chat) else Beginning()

    def message(self, message: str, row: Example, context: InterventionContext) -> str:
        return self.form.replace("{prompt}", message)


_CIPHERS: Mapping[str, Callable[[str], str]] = {
    "rot13": lambda message: codecs.encode(message, "rot13"),
    "base64": lambda message: base64.b64encode(message.encode()).decode(),
    "reversed": lambda message: message[::-1],
}


@dataclass(frozen=True, kw_only=True)
class Encoded(Around):
    """The message in a cipher, within `form`, which says how to read it.

    With `table`, each letter stands for another, drawn by seed and prompt; {table} in `form` says for which.
    """

    cipher: Literal["rot13", "base64", "reversed", "table"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if ("{table}" in self.form) != (self.cipher == "table"):
            raise ValueError(f"form={self.form!r}: accepted: a text with {{table}} in it if cipher=table, else without")

    def message(self, message: str, row: Example, context: InterventionContext) -> str:
        if self.cipher != "table":
            return super().message(_CIPHERS[self.cipher](message), row, context)

        def place(letter: str) -> bytes:
            return hashlib.sha256(f"{self.seed}\x1f{row.id}\x1f{letter}".encode()).digest()

        written = "".join(sorted(ascii_lowercase, key=place))  # in place of a, b, ...
        table = ", ".join(f"{letter} = {ascii_lowercase[written.index(letter)]}" for letter in ascii_lowercase)
        letters = str.maketrans(ascii_lowercase + ascii_lowercase.upper(), written + written.upper())
        return self.form.replace("{table}", table).replace("{prompt}", message.translate(letters))


@dataclass(frozen=True, kw_only=True)
class ManyShot(Intervention):
    """`shots` other prompts of the benchmark, each with an answer of the source that complies, before the message.

    The answers are those that do not refuse by the packaged judge of refusals. On harmful prompts this is the attack;
    on others the pairs are harmless.
    """

    reads_others = True

    shots: Annotated[int, Gt(0)]

    def begin(self, row: Example, response: Any, context: InterventionContext) -> Beginning | None:
        """None if the source complies with fewer other prompts than `shots`."""
        return Beginning() if len(self._pairs(row, context)) == self.shots else None

    def message(self, message: str, row: Example, context: InterventionContext) -> str:
        pairs = [f"User: {pair.prompt}\nAssistant: {pair.answer}" for pair in self._pairs(row, context)]
        return SEPARATOR.join([*pairs, message])

    def _pairs(self, row: Example, context: InterventionContext) -> Sequence[Generation]:
        others = [response for response in context.complying if response.id != row.id]
        start = choose(range(len(others)), self.seed, row.id) if others else 0
        return (others[start:] + others[:start])[: self.shots]


def step_of(thought: str, part: Part) -> Span | None:
    """The first such step of a thought; None if it has none."""
    reading = read_thought(thought)
    end = 0
    for segment in reading.segments:
        start = thought.index(segment.text, end)
        end = start + len(segment.text)
        decides = segment.step in ("refusal", "reasoning") and reading.position is not None and start > reading.position
        if segment.step == part or (part == "decision" and decides):
            says = reading.verdict if part == "assessment" else segment.step
            return str(says), start, end
    return None
