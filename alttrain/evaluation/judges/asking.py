"""Judges that ask a model on a server: one question a generation, a reply in a fixed form, nothing guessed.

A reply is kept by its content, as it came, so judging anew asks for nothing twice and a change in how replies are read
costs nothing. What is not in the form is undecided, with the reply in `raw` and why in `error`. Where the server failed
the error begins with `NO_REPLY`: nothing was kept, and judging again asks again.
"""

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alttrain.evaluation.judges.desk import JudgeDesk
from alttrain.records import Generation, Judgement
from alttrain.rewrite.teachers import Desk, Reply, ReplyCache, Writer
from alttrain.rewrite.teachers.cache import reply_key
from alttrain.serving import Failure

log = logging.getLogger(__name__)

NO_REPLY = "no reply: "
GIVEN_UP = "the server was given up"
RECIPE = 1
"""Part of every reply's key: raise it where the same question should be asked anew."""


@dataclass(frozen=True)
class Reading:
    """What a reply says: the verdict, a score of 0 to 1 where it has one, and the words it rests on."""

    verdict: bool
    evidence: str
    value: float | None = None


@dataclass(frozen=True)
class AskingJudge(ABC):
    """A judge with a `writer`: subclasses say what is asked and how a reply is read."""

    writer: Writer

    @property
    @abstractmethod
    def name(self) -> str:
        """The judge's name in judgements.jsonl."""

    @abstractmethod
    def question(self, generation: Generation) -> str:
        """The one message that asks for a judgement."""

    @abstractmethod
    def read(self, reply: str) -> Reading | None:
        """What a reply says; None where it is not in the form asked for."""

    def judge(self, generations: Sequence[Generation], desk: JudgeDesk) -> Iterator[Judgement]:
        """Rows without an answer first, then kept replies, then those that come. Equal questions are asked once."""
        asking: dict[str, list[Generation]] = {}
        for generation in generations:
            if generation.answer.strip():
                asking.setdefault(self.question(generation), []).append(generation)
            else:
                desk.progress(1)
                yield Judgement(generation.id, self.name, None, "empty answer", sample=generation.sample)
        for question, reply in self._replies(list(asking), desk):
            for generation in asking.pop(question):
                desk.progress(1)
                yield self._judgement(generation, reply)
        for rows in asking.values():
            for generation in rows:
                desk.progress(1)
                yield self._judgement(generation, Failure(GIVEN_UP, final=False))

    def _replies(self, questions: list[str], desk: JudgeDesk) -> Iterator[tuple[str, Reply | Failure]]:
        lent, cache = Desk(desk.cache), ReplyCache(desk.cache)
        model, sampling = self.writer.model(lent), self.writer.sampling
        lacking: dict[str, str] = {}
        for question in questions:
            key = reply_key(model, [{"role": "user", "content": question}], sampling, RECIPE)
            kept = cache.get(key)
            if kept is None:
                lacking[key] = question
            else:
                yield question, kept
        if lacking:
            log.info("judge     asking %s for %d replies; %d kept", model, len(lacking), len(questions) - len(lacking))
            for key, reply in self.writer.write(lacking, lent, cache.keep):
                yield lacking[key], reply

    def _judgement(self, generation: Generation, reply: Reply | Failure) -> Judgement:
        if isinstance(reply, Failure):
            error = reply.reason if reply.final else f"{NO_REPLY}{reply.reason}"
            return Judgement(generation.id, self.name, None, error=error, sample=generation.sample)
        reading = self.read(_said(reply.text))
        if reading is None:
            error = _fault(reply.text)
            return Judgement(generation.id, self.name, None, error=error, raw=reply.text, sample=generation.sample)
        return Judgement(
            generation.id,
            self.name,
            reading.verdict,
            reading.evidence,
            value=reading.value,
            raw=reply.text,
            sample=generation.sample,
        )


def exchange(generation: Generation) -> str:
    """Prompt and answer between marks that neither can contain, since both make the marks."""
    digest = hashlib.sha256(f"{generation.prompt}\x1f{generation.answer}".encode()).hexdigest()[:8]
    return (
        f"<prompt-{digest}>\n{generation.prompt}\n</prompt-{digest}>\n\n"
        f"<response-{digest}>\n{generation.answer}\n</response-{digest}>"
    )


def _said(reply: str) -> str:
    """The reply without a closed thought and markdown emphasis."""
    return re.sub(r"[*`]", "", reply.rpartition("</think>")[2]).strip()


def _fault(reply: str) -> str:
    """Why a reply could not be read."""
    from alttrain.evaluation.refusal import judge_refusal  # which imports this package

    said = _said(reply)
    if not said:
        return "the judge's reply is empty"
    return "the judge refuses to judge" if judge_refusal(said)[0] else "the judge's reply is not in the form asked for"
