"""The teacher that asks a model, and sees to it that every example gets one valid sentence or the reason why not.

A prompt goes to the `Writer` only where the cache has no reply to it, and runs that ask the same model do so one after
another: what one asked, the next finds. Replies are kept as they came, faulty ones too: validation runs on the kept
text, so a second run walks the same path, repairs included, without asking again. Only a server's reply that was of no
use in the end is asked for again by the next run.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from annotated_types import Ge, MinLen

from alttrain.records import Example, Rejected, Segment, Step, alone
from alttrain.rewrite.teachers.backbone import BackboneWriter
from alttrain.rewrite.teachers.cache import Reply, ReplyCache, reply_key
from alttrain.rewrite.teachers.desk import Desk, Writer
from alttrain.rewrite.teachers.recipe import RECIPE, assessment_prompt, repair_prompt, understanding_prompt
from alttrain.rewrite.teachers.validation import DISAGREES, assessment_fault, clean, understanding_fault
from alttrain.serving import Failure, is_other_model

log = logging.getLogger(__name__)

HASH_DIGITS = 16
"""How much of a reply's key a segment carries: enough to find the file in the cache."""

Grouped = dict[str, list[Example]]
"""Examples by the prompt they ask with: rows that ask the same are asked once."""


class TeacherUnavailableError(OSError):
    """The teacher answered only a part. What it answered is kept, and the same command goes on with the rest."""

    def __init__(self, name: str, missing: int, total: int, reason: str) -> None:
        super().__init__(
            f"teacher={name}: {missing} of {total} rows have no sentence yet, because {reason}; every reply "
            "that came is kept, and the same command goes on with the rest"
        )
        self.missing = missing


@dataclass(frozen=True)
class AskedTeacher:
    """Has a model write one sentence for each example.

    With `tell_label` the model is told the dataset's label and says why; without, it judges by itself, and a verdict
    that disagrees is rejected rather than repaired, which would tell. Other faults are repaired up to `repairs` times.
    The run's seed plays no part: one request has one assessment.
    """

    name: Annotated[str, MinLen(1)]
    writer: Writer
    tell_label: bool = True
    max_words: Annotated[int, Ge(10)] = 60
    repairs: Annotated[int, Ge(0)] = 1

    def verify(self, where: str) -> None:
        """Raise ValueError, naming the keys below `where`, where the model cannot be asked."""
        self.writer.verify(f"{where}.writer")

    def assess(self, examples: Sequence[Example], seed: int, desk: Desk) -> Iterator[tuple[str, Segment | Rejected]]:
        """The harmfulness assessments. Raises TeacherUnavailableError at the end where some could not be had."""
        return self._sentences(
            "assessment",
            examples,
            desk,
            ask=lambda example: assessment_prompt(example, self.tell_label),
            fault=lambda text, example: assessment_fault(text, example.label, self.max_words),
        )

    def understand(
        self, examples: Sequence[Example], seed: int, desk: Desk
    ) -> Iterator[tuple[str, Segment | Rejected]]:
        """Problem understandings for examples without a trace, in the same way."""
        return self._sentences(
            "understanding",
            examples,
            desk,
            ask=understanding_prompt,
            fault=lambda text, example: understanding_fault(text, self.max_words),
        )

    def _sentences(
        self,
        step: Step,
        examples: Sequence[Example],
        desk: Desk,
        ask: Callable[[Example], str],
        fault: Callable[[str, Example], str],
    ) -> Iterator[tuple[str, Segment | Rejected]]:
        settled = 0
        asking = _grouped((ask(example), example) for example in examples)
        for repairs_left in range(self.repairs, -1, -1):
            repairing: list[tuple[str, Example]] = []
            missing = ""
            useful = partial(self._useful, asking, fault, repairs_left)
            for prompt, key, reply in replies(self.writer, list(asking), desk, RECIPE, "teacher", useful):
                if isinstance(reply, Failure) and not reply.final:
                    missing = reply.reason
                    continue
                text = clean(reply.text) if isinstance(reply, Reply) else ""
                for example in asking.pop(prompt):
                    wrong = fault(text, example) if isinstance(reply, Reply) else reply.reason
                    if isinstance(reply, Reply) and repairs_left and not self._settles(wrong):
                        repairing.append((repair_prompt(prompt, reply.text, wrong), example))
                        continue
                    settled += 1
                    desk.progress(1)
                    origin = f"teacher:{self.name}"
                    rejected = Rejected(example.id, f"{step}: {wrong}")
                    yield example.id, rejected if wrong else Segment(step, text, origin, key[:HASH_DIGITS])
            if asking:
                raise TeacherUnavailableError(self.name, len(examples) - settled, len(examples), missing)
            asking = _grouped(repairing)

    def _settles(self, wrong: str) -> bool:
        """Whether a reply with this fault, or with none, is the last word; no verdict is asked for till it pleases."""
        return not wrong or (wrong == DISAGREES and not self.tell_label)

    def _useful(
        self, asking: Grouped, fault: Callable[[str, Example], str], repairs_left: int, prompt: str, reply: Reply
    ) -> bool:
        """Whether a kept reply leads on: to a sentence, or to a repair."""
        return repairs_left > 0 or any(self._settles(fault(clean(reply.text), example)) for example in asking[prompt])


def replies(
    writer: Writer,
    prompts: Sequence[str],
    desk: Desk,
    recipe: int,
    who: str,
    useful: Callable[[str, Reply], bool] = lambda prompt, reply: True,
) -> Iterator[tuple[str, str, Reply | Failure]]:
    """Prompt, key and reply: first what is kept, then what has to be asked, as it comes.

    Those who ask the same model do so one after another, in whatever process: what one asked, the next finds. A
    server's kept reply that is not `useful` to its prompt is asked for again, and the new one kept instead; a backbone
    would say the same. A reply that another model wrote than was asked for, or than wrote the kept ones, is warned of.
    """
    cache = ReplyCache(desk.cache)
    model, sampling = writer.model(desk), writer.sampling
    deterministic = isinstance(writer, BackboneWriter)
    lacking: dict[str, str] = {}
    unusable: dict[str, Reply] = {}
    written: Counter[str] = Counter()
    for prompt in prompts:
        key = reply_key(model, [{"role": "user", "content": prompt}], sampling, recipe)
        kept = cache.get(key)
        if kept is None:
            lacking[key] = prompt
        elif deterministic or useful(prompt, kept):
            written[kept.served] += 1
            yield prompt, key, kept
        else:
            lacking[key], unusable[key] = prompt, kept
    if lacking:
        with alone(desk.cache / f"{reply_key(model, [], sampling, recipe)[:HASH_DIGITS]}.asked"):
            for key in list(lacking):
                kept = cache.get(key)
                if kept is not None and kept != unusable.get(key):  # a run that was here before asked for it
                    yield lacking.pop(key), key, kept
            if lacking:
                log.info(
                    "%-9s asking %s for %d replies; %d kept", who, model, len(lacking), len(prompts) - len(lacking)
                )
                asked = writer.write(lacking, desk, lambda key, reply: cache.keep(key, reply, unusable.get(key)))
                for key, reply in asked:
                    written[reply.served if isinstance(reply, Reply) else ""] += 1
                    yield lacking[key], key, reply
    _tell_served(who, model, written)


def _tell_served(who: str, model: str, written: Counter[str]) -> None:
    """Warn where a server says that another model answered than was asked for, or more than one."""
    served = sorted(name for name in written if name)
    if len(served) > 1 or any(is_other_model(name, model.rpartition(" at ")[0]) for name in served):
        counts = ", ".join(f"{name} ({written[name]})" for name in served)
        log.warning("%-9s asked for %s, and the server says that these models answered: %s", who, model, counts)


def _grouped(asked: Iterable[tuple[str, Example]]) -> Grouped:
    grouped: Grouped = {}
    for prompt, example in asked:
        grouped.setdefault(prompt, []).append(example)
    return grouped
