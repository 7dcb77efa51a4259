"""A chat template as data: the text around system prompt, user message, thought and answer.

One class renders both what is trained on and what is prompted with, splits what a model wrote into thought and answer,
and writes the Jinja template saved beside an adapter, so that a server renders the same text.
"""

from dataclasses import dataclass
from typing import Literal

ThoughtMode = Literal["open", "empty", "absent"]
"""How a prompt ends: inside an opened thought, after an empty thought, or without any (the answer follows at once)."""

_SLOT = "{content}"


@dataclass(frozen=True)
class ChatTemplate:
    """Delimiters of one model family. `{content}` in `system` and `user` is the message.

    `think_open` ends the prompt, `think_close` parts thought and answer, `end` is the token that ends the turn.
    """

    system: str
    user: str
    assistant: str
    think_open: str
    think_close: str
    end: str
    bos: str = ""

    def __post_init__(self) -> None:
        for name in ("system", "user"):
            if getattr(self, name).count(_SLOT) != 1:
                raise ValueError(f"template.{name} must hold {_SLOT} exactly once, found {getattr(self, name)!r}")
        if not self.think_close.strip() or not self.end:
            raise ValueError("template.think_close and template.end must not be empty")

    def prompt(self, user: str, system: str | None, thought: ThoughtMode) -> str:
        """The text a model is prompted with, up to the first character it writes itself."""
        opening = self.bos + (self.system.replace(_SLOT, system) if system is not None else "")
        return opening + self.user.replace(_SLOT, user) + self.assistant + self._thought_start(thought)

    def _thought_start(self, thought: ThoughtMode) -> str:
        return {"open": self.think_open, "empty": self.think_open + self.think_close, "absent": ""}[thought]

    def response(self, thought: str, answer: str) -> str:
        """What the model is trained to write after an opened thought, its end token included."""
        return thought + self.think_close + answer + self.end

    def split(self, text: str, mode: ThoughtMode) -> tuple[str, str, bool]:
        """(thought, answer, closed) of what a model wrote. An unclosed thought leaves no answer."""
        if mode != "open":
            return "", text.strip(), True
        thought, delimiter, answer = text.partition(self.think_close.strip())
        if not delimiter:
            return text.strip(), "", False
        return thought.strip(), answer.strip(), True

    def jinja(self) -> str:
        """The same template for `tokenizer.chat_template`: earlier assistant turns lose their thought, as R1's do."""
        close = self.think_close.strip()
        system, user = (_jinja_message(getattr(self, name)) for name in ("system", "user"))
        return (
            f"{_literal(self.bos)}"
            "{%- for message in messages -%}"
            "{%- if message['role'] == 'system' -%}"
            + system
            + "{%- elif message['role'] == 'user' -%}"
            + user
            + "{%- else -%}"
            f"{_literal(self.assistant)}"
            "{%- if loop.last -%}{{- message['content'] -}}"
            f"{{%- else -%}}{{{{- message['content'].split({close!r})[-1].strip() -}}}}{{%- endif -%}}"
            f"{_literal(self.end)}{_literal(self._after_end())}"
            "{%- endif -%}{%- endfor -%}"
            f"{{%- if add_generation_prompt -%}}{_literal(self.assistant + self.think_open)}{{%- endif -%}}"
        )

    def _after_end(self) -> str:
        """What follows the end token between turns: the user message's own tail after the same token."""
        return self.user.rpartition(self.end)[2] if self.end in self.user else ""


def _literal(text: str) -> str:
    return "{{- " + repr(text) + " -}}" if text else ""


def _jinja_message(form: str) -> str:
    before, after = form.split(_SLOT)
    return _literal(before) + "{{- message['content'] -}}" + _literal(after)
