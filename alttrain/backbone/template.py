"""A chat template as data: the text around system prompt, user message, thought and answer.

One class renders both what is trained on and what is prompted with, splits what a model wrote into thought and answer,
and writes the Jinja template saved beside an adapter, so that a server renders the same text. One rule tells a thought
from its answer here and there: the last closing delimiter does, as in R1's and Qwen3's own templates. A thought may so
speak of its delimiter and go on.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

ThoughtMode = Literal["open", "empty", "absent"]
"""How a prompt ends: where the thought begins, after an empty thought, or without any (the answer follows at once)."""

_SLOT = "{content}"


class Rendered(str):
    """A text that knows who wrote what: `pieces` are in turn the template's, and what a user, a row or a model said.

    What is cut from it or joined to it is a plain str, which holds nothing of the template's.
    """

    pieces: tuple[str, ...]

    def __new__(cls, pieces: Iterable[str]) -> "Rendered":
        pieces = tuple(pieces)
        text = super().__new__(cls, "".join(pieces))
        text.pieces = pieces
        return text


@dataclass(frozen=True)
class ChatTemplate:
    """Delimiters of one model family. `{content}` in `system` and `user` is the message.

    `think_open` and `think_close` stand around the thought, `end` is the token that ends the turn. `opened_by` says who
    writes `think_open`: the prompt ends with it, or the model's response begins with it. `answer_prefix` begins an
    answer that does not hold it already. `history_gap` says what becomes of the newlines between thought and answer
    where the answer stands in a history: R1's own template keeps them, Qwen3's cuts them.
    """

    system: str
    user: str
    assistant: str
    think_open: str
    think_close: str
    end: str
    bos: str = ""
    opened_by: Literal["prompt", "model"] = "prompt"
    answer_prefix: str = ""
    history_gap: Literal["cut", "kept"] = "cut"

    def __post_init__(self) -> None:
        for name in ("system", "user"):
            if getattr(self, name).count(_SLOT) != 1:
                raise ValueError(f"template.{name} must hold {_SLOT} exactly once, found {getattr(self, name)!r}")
        if not self.think_close.strip() or not self.end:
            raise ValueError("template.think_close and template.end must not be empty")
        if self.opened_by == "model" and not self.think_open.strip():
            raise ValueError("template.opened_by=model needs a template.think_open that the model can write")

    def prompt(
        self,
        user: str,
        system: str | None,
        thought: ThoughtMode,
        turns: Iterable[str] = (),
        answers: Iterable[str] = (),
    ) -> Rendered:
        """The text a model is prompted with, up to the first character it writes itself.

        No `system` text, no system message. `turns` are the user's earlier messages, `answers` what `history` leaves of
        the responses to them; messages without an answer follow one another.
        """
        answered = self.assistant + _SLOT + self.end + self._after_end()
        said = [(self.system, system)] if system else []
        for message, answer in itertools.zip_longest(turns, answers, fillvalue=""):
            said += [(self.user, message), (answered, answer)] if answer else [(self.user, message)]
        pieces = [self.bos]
        for form, content in [*said, (self.user, user)]:
            before, after = form.split(_SLOT)
            pieces[-1] += before
            pieces += [content, after]
        pieces[-1] += self.assistant + self._thought_start(thought)
        return Rendered(pieces)

    def _thought_start(self, thought: ThoughtMode) -> str:
        if thought == "empty":
            return self.think_open + self.think_close
        return self.think_open if thought == "open" and self.opened_by == "prompt" else ""

    def response(self, thought: str, answer: str | None) -> Rendered:
        """What the model is trained to write after an "open" prompt, its end token included.

        Without an answer (None) it is the beginning of a thought that goes on: neither closed nor ended. An empty
        answer ends the turn where the thought is closed. An empty thought that the prompt has opened is closed at once:
        one more newline would join with the prompt's into another token than the prompt ends with.
        """
        opening = self.think_open if self.opened_by == "model" else ""
        if answer is None:
            return Rendered((opening, thought))
        close = self.think_close if opening + thought else self.think_close.lstrip()
        if not answer:
            return Rendered((opening, thought, close.rstrip() + self.end))
        prefix = "" if self.answer_prefix.strip() in answer else self.answer_prefix
        return Rendered((opening, thought, close + prefix, answer, self.end))

    def split(self, text: str, mode: ThoughtMode) -> tuple[str, str, bool]:
        """(thought, answer, closed) of what a model wrote: the answer is what follows the last closing delimiter.

        Without one the text is a thought left unclosed, which leaves no answer, where the prompt has opened the thought
        or the text begins by opening it; else all of it is the answer.
        """
        opening, text = self.think_open.strip(), text.strip()
        opened = (mode == "open" and self.opened_by == "prompt") or bool(opening and text.startswith(opening))
        thought, closed, answer = text.rpartition(self.think_close.strip())
        if opened and not closed:
            thought, answer = text, ""
        return thought.removeprefix(opening).strip(), self._answer(answer), bool(closed) or not opened

    def history(self, text: str, mode: ThoughtMode) -> str:
        """What stands in later prompts of what a model wrote, as `jinja` has it; nothing of a thought left unclosed."""
        if not self.split(text, mode)[1]:
            return ""
        _, close, kept = text.rpartition(self.think_close.strip())
        return kept.lstrip("\n") if close and self.history_gap == "cut" else kept

    def _answer(self, text: str) -> str:
        return text.strip().removeprefix(self.answer_prefix.strip()).strip()

    def jinja(self, system_prompt: str | None = None) -> str:
        """The same template for `tokenizer.chat_template`: earlier assistant turns lose their thought, as by `history`.

        A message without delimiters is an answer: servers give answers without their thoughts. `system_prompt` stands
        where the dialogue has no system message of its own.
        """
        close, cut = self.think_close.strip(), ".lstrip('\\n')" if self.history_gap == "cut" else ""
        opening = self.think_open.strip()
        unclosed = f"{{%- elif said.lstrip().startswith({opening!r}) -%}}{{%- set said = '' -%}}" if opening else ""
        system, user = (_jinja_message(getattr(self, name)) for name in ("system", "user"))
        default = self.system.replace(_SLOT, system_prompt) if system_prompt else ""
        return (
            _literal(self.bos)
            + (f"{{%- if messages[0]['role'] != 'system' -%}}{_literal(default)}{{%- endif -%}}" if default else "")
            + "{%- for message in messages -%}"
            "{%- if message['role'] == 'system' -%}"
            "{%- if message['content'] -%}" + system + "{%- endif -%}"
            "{%- elif message['role'] == 'user' -%}" + user + "{%- else -%}{%- set said = message['content'] -%}"
            "{%- if loop.last -%}"
            f"{{%- elif {close!r} in said -%}}{{%- set said = said.split({close!r})[-1]{cut} -%}}"
            + unclosed
            + "{%- endif -%}"
            "{%- if loop.last or said.strip() -%}"
            + _literal(self.assistant)
            + "{{- said -}}"
            + _literal(self.end + self._after_end())
            + "{%- endif -%}{%- endif -%}{%- endfor -%}"
            "{%- if add_generation_prompt -%}"
            + _literal(self.assistant + self._thought_start("open"))
            + "{%- endif -%}"
        )

    def _after_end(self) -> str:
        """What follows the end token between turns: the user message's own tail after the same token."""
        return self.user.rpartition(self.end)[2] if self.end in self.user else ""


def _literal(text: str) -> str:
    return "{{- " + repr(text) + " -}}" if text else ""


def _jinja_message(form: str) -> str:
    before, after = form.split(_SLOT)
    return _literal(before) + "{{- message['content'] -}}" + _literal(after)
