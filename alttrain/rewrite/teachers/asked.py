"""The teacher that asks a model. Each example gets one valid sentence, or a reason why it has none.

Replies are stored unchanged, including faulty ones. Validation works on the stored text, so a second run takes the same
path, including repairs, without asking again. Only a server's reply that led to no sentence is requested again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from annotated_types import Ge, Gt, MinLen

from alttrain.llm import HASH_DIGITS, Failure, Keep, Reply, ServerWriter, Writer, replies
from alttrain.records import Example, Rejected, Segment, Step
from alttrain.rewrite.teachers.sentences import (
    DISAGREES,
    RECIPE,
    assessment_fault,
    assessment_prompt,
    clean,
    repair_prompt,
    understanding_fault,
    understanding_prompt,
)

Sentences = Iterator[tuple[str, Segment | Rejected]]
"""(example id, sentence or rejection), once per example, in any order, as they arrive."""


@dataclass(frozen=True)
class TeacherContext:
    """What a run provides to its teacher.

    `cache` is the folder of replies shared by all runs. `ask` takes prompts and a limit on new tokens, and returns the
    backbone's greedy answers without thoughts ("" if a thought did not end). `model` returns the name of the weights
    behind `ask`, a part of the replies' cache keys. `progress` is called with the number of examples just done.
    """

    cache: Path
    ask: Callable[[list[str], int], list[str]] | None = None
    model: Callable[[], str] = lambda: ""
    progress: Callable[[int], None] = lambda count: None


class SegmentWriter(Protocol):
    """What teachers and understanders have in common. Each segment's origin holds the `name`: "teacher:NAME"."""

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def servers(self) -> Sequence[str]:
        """The addresses of the servers that it asks; by default none."""
        return ()

    @property
    def asks_backbone(self) -> bool:
        """Whether it asks the run's own backbone; by default it does not."""
        return False

    def check(self, where: str) -> None:
        """Raise ValueError, naming the config key under `where`, if a model cannot be asked; by default none is."""


class Teacher(SegmentWriter, Protocol):
    """Writes the harmfulness assessments. `offline` ones ask no model, and the check makes the training rows by them.

    `blind` ones do not see the label, and reject a row with the reason `DISAGREES` if their verdict is another.
    """

    offline: ClassVar[bool] = False

    @property
    def blind(self) -> bool:
        """Whether the model does not see the label; by default it does."""
        return False

    def check_rows(self, examples: Sequence[Example]) -> None:
        """Raise ValueError if some of the rows cannot be assessed; by default all can."""

    def assess(self, examples: Sequence[Example], seed: int, context: TeacherContext) -> Sentences:
        """Yield the assessments."""


class Understander(SegmentWriter, Protocol):
    """Writes problem understandings for rows without a trace."""

    def understand(self, examples: Sequence[Example], seed: int, context: TeacherContext) -> Sentences:
        """Yield the understandings."""


class TeacherUnavailableError(OSError):
    """Some rows have no sentence yet. Replies so far are stored, and the same command continues with the rest."""


@dataclass(frozen=True)
class BackboneWriter:
    """The run's own backbone, decoding greedily, with at most `max_tokens` new tokens (thought included).

    `chunk` prompts are decoded and stored together, so that a kill loses at most one chunk.
    """

    max_tokens: Annotated[int, Gt(0)]
    chunk: Annotated[int, Gt(0)] = 64


class _Backbone:
    """The run's backbone as a `Writer`. Raises ValueError if the run provides none."""

    repeats: ClassVar[bool] = True

    def __init__(self, writer: BackboneWriter, context: TeacherContext) -> None:
        if context.ask is None or not (identity := context.model()):
            raise ValueError("teacher.writer: this run provides no backbone to ask; choose teacher=server")
        self.identity, self._ask, self._chunk = identity, context.ask, writer.chunk
        self.sampling: Mapping[str, Any] = {"temperature": 0.0, "max_tokens": writer.max_tokens}

    def write(self, prompts: Mapping[str, str], keep: Keep) -> Iterator[tuple[str, Reply]]:
        for start in range(0, len(prompts), self._chunk):
            chunk = list(prompts)[start : start + self._chunk]
            texts = self._ask([prompts[key] for key in chunk], self.sampling["max_tokens"])
            yield from [(key, keep(key, Reply(text))) for key, text in zip(chunk, texts, strict=True)]


@dataclass(frozen=True)
class AskedTeacher(Teacher, Understander):
    """Asks a model for one sentence per example.

    With `tell_label` the prompt contains the dataset's label, and the model only gives the reason. Without it the model
    judges by itself, and a verdict that disagrees with the label is rejected, because a repair would reveal the label.
    Other faults are repaired up to `repairs` times. The run's seed is not used: equal prompts get the same sentence.
    """

    name: Annotated[str, MinLen(1)]
    writer: ServerWriter | BackboneWriter
    tell_label: bool = True
    max_words: Annotated[int, Ge(10)] = 60
    repairs: Annotated[int, Ge(0)] = 1

    def __str__(self) -> str:
        return f"{self.name} {self.writer.model_name}" if isinstance(self.writer, ServerWriter) else self.name

    @property
    def servers(self) -> Sequence[str]:
        """The writer's server, unless the run's backbone writes."""
        return (self.writer.base_url,) if isinstance(self.writer, ServerWriter) else ()

    @property
    def asks_backbone(self) -> bool:
        """Whether the run's backbone writes."""
        return isinstance(self.writer, BackboneWriter)

    @property
    def blind(self) -> bool:
        """Whether the model does not see the label."""
        return not self.tell_label

    def check(self, where: str) -> None:
        """Raise ValueError, naming the config key under `where`, if the model cannot be asked."""
        if isinstance(self.writer, ServerWriter):
            self.writer.check_server(f"{where}.writer")

    def assess(self, examples: Sequence[Example], seed: int, context: TeacherContext) -> Sentences:
        """Yield the assessments. Raises TeacherUnavailableError at the end if some are missing."""
        asked = _grouped((assessment_prompt(example, self.tell_label), example) for example in examples)
        return self._sentences(
            "assessment", asked, context, lambda text, row: assessment_fault(text, row.label, self.max_words)
        )

    def understand(self, examples: Sequence[Example], seed: int, context: TeacherContext) -> Sentences:
        """Yield understandings for examples without a trace. Raises TeacherUnavailableError like `assess`."""
        asked = _grouped((understanding_prompt(example), example) for example in examples)
        return self._sentences(
            "understanding", asked, context, lambda text, row: understanding_fault(text, self.max_words)
        )

    def _sentences(
        self,
        step: Step,
        asking: dict[str, list[Example]],
        context: TeacherContext,
        fault: Callable[[str, Example], str],
    ) -> Sentences:
        writer: Writer = self.writer if isinstance(self.writer, ServerWriter) else _Backbone(self.writer, context)
        total = left_over = sum(map(len, asking.values()))
        left, missing = self.repairs, ""

        def useful(prompt: str, reply: Reply) -> bool:
            """Whether a kept reply leads on: to a sentence, or to a repair."""
            return left > 0 or any(self._settles(fault(clean(reply.text), row)) for row in asking[prompt])

        while asking:
            repairing: list[tuple[str, Example]] = []
            for prompt, key, reply in replies(writer, list(asking), context.cache, RECIPE, "teacher", useful):
                if isinstance(reply, Failure) and not reply.final:
                    missing = reply.reason
                    continue
                text = clean(reply.text) if isinstance(reply, Reply) else ""
                for row in asking.pop(prompt):
                    wrong = fault(text, row) if isinstance(reply, Reply) else reply.reason
                    if isinstance(reply, Reply) and left and not self._settles(wrong):
                        repairing.append((repair_prompt(prompt, reply.text, wrong), row))
                        continue
                    left_over -= 1
                    context.progress(1)
                    segment = Segment(step, text, f"teacher:{self.name}", key[:HASH_DIGITS])
                    yield row.id, Rejected(row.id, f"{step}: {wrong}") if wrong else segment
            if asking:
                raise TeacherUnavailableError(
                    f"teacher={self.name}: {left_over} of {total} rows have no sentence yet, because {missing}; every "
                    "reply that came is kept, and the same command goes on with the rest"
                )
            asking, left = _grouped(repairing), left - 1

    def _settles(self, wrong: str) -> bool:
        """Return whether a reply with this fault is final. Without `tell_label`, a disagreeing verdict is."""
        return not wrong or (wrong == DISAGREES and not self.tell_label)


def _grouped(asked: Iterable[tuple[str, Example]]) -> dict[str, list[Example]]:
    """Group examples by prompt, so that equal prompts are asked once."""
    grouped: dict[str, list[Example]] = {}
    for prompt, example in asked:
        grouped.setdefault(prompt, []).append(example)
    return grouped
