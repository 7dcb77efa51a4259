"""A chat template as data: the text around system prompt, user message, thought and answer.

`ChatTemplate` renders examples and prompts, splits generated text, and writes the Jinja template saved with an adapter.
Everywhere the answer starts after the last closing delimiter, as in R1's and Qwen3's own templates. A thought may
therefore mention its delimiter.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

ThoughtMode = Literal["open", "empty", "absent"]
"""How a prompt ends: with an open thought, with an empty thought, or without a thought (the answer follows at once)."""

_SLOT = "{content}"

# of `ChatTemplate.jinja`, which sets the names that no `set` here does
_JINJA = """\
{{- bos -}}
{%- if unsaid and messages[0]['role'] != 'system' -%}
  {{- unsaid -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set said = message['content'] -%}
  {%- if message['role'] == 'system' -%}
    {{- system[0] ~ said ~ system[1] if said else without_system -}}
  {%- elif message['role'] == 'user' -%}
    {{- user[0] ~ said ~ user[1] -}}
  {%- else -%}
    {%- if header and said.lstrip().startswith(header) -%}
      {%- set said = said.lstrip()[header|length:] -%}
    {%- endif -%}
    {%- if loop.last -%}
      {%- set thinks = header and said.lstrip().startswith(opening) -%}
      {{- assistant ~ ('' if thinks else header) ~ said ~ after_last -}}
    {%- else -%}
      {%- if close in said -%}
        {%- set said = said.split(close)[-1].lstrip(gap) -%}
      {%- elif opening and said.lstrip().startswith(opening) -%}
        {%- set said = '' -%}
      {%- endif -%}
      {%- if said.strip() -%}
        {{- assistant ~ header ~ said ~ after_answer -}}
      {%- endif -%}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- reply -}}
{%- endif -%}
"""


class Rendered(str):
    """A text that records who wrote what. `pieces` alternate between the template's text and that of users, rows or
    models, starting with the template's.

    Slicing or concatenating gives a plain str, in which no text counts as the template's.
    """

    pieces: tuple[str, ...]

    def __new__(cls, *pieces: str) -> "Rendered":
        text = super().__new__(cls, "".join(pieces))
        text.pieces = pieces
        return text


@dataclass(frozen=True)
class ChatTemplate:
    """The delimiters of a model family. In `system` and `user`, `{content}` is the message."""

    system: str
    user: str
    assistant: str
    think_open: str
    think_close: str
    end: str  # the token that ends a turn
    bos: str = ""
    opened_by: Literal["prompt", "model"] = "prompt"  # whose text `think_open` is part of
    answer_prefix: str = ""  # put before answers that do not contain it
    history_gap: Literal["cut", "kept"] = "cut"  # the newlines before an earlier answer: Qwen3 cuts them, R1 does not
    turn_end: str = ""  # what ends an earlier answer, if not `end` and what follows it in `user`: OLMo 3's differs
    answered: str = ""  # what begins an answer without a thought, if not `assistant`: gpt-oss names the channel
    without_system: str = ""  # the default system turn: written instead of `system` if there is no system message

    def __post_init__(self) -> None:
        for name in ("system", "user"):
            if getattr(self, name).count(_SLOT) != 1:
                raise ValueError(f"template.{name} must hold {_SLOT} exactly once, found {getattr(self, name)!r}")
        if self.answered and not self.answered.startswith(self.assistant):
            raise ValueError(f"template.answered must begin with template.assistant, found {self.answered!r}")
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
        """Render a prompt, up to the first character that the model writes.

        Without a `system` text, `without_system` takes its place. `turns` are the user's earlier messages. `answers`
        are the responses to them as `history` returns them; a message with an empty answer is followed by the next one.
        """
        answer_form = (self.answered or self.assistant) + _SLOT + self._after_answer()
        messages = [(self.system, system)] if system else []
        for message, answer in itertools.zip_longest(turns, answers, fillvalue=""):
            messages += [(self.user, message), (answer_form, answer)] if answer else [(self.user, message)]
        pieces = [self.bos + ("" if system else self.without_system)]
        for form, content in [*messages, (self.user, user)]:
            before, after = form.split(_SLOT)
            pieces[-1] += before
            pieces += [content, after]
        pieces[-1] += self._reply(thought)
        return Rendered(*pieces)

    def _reply(self, thought: ThoughtMode) -> str:
        """Return what begins a reply, up to the first character that the model writes."""
        if thought == "absent":
            return self.answered or self.assistant
        opening = self.think_open if thought == "empty" or self.opened_by == "prompt" else ""
        return self.assistant + opening + (self.think_close if thought == "empty" else "")

    def response(self, thought: str, answer: str | None) -> Rendered:
        """Render the response to an "open" prompt that a model is trained on, including the end token.

        With `answer` None it is the start of a thought, neither closed nor ended. With an empty answer the turn ends
        right after the closing delimiter.
        """
        opening = self.think_open if self.opened_by == "model" else ""
        if answer is None:
            return Rendered(opening, thought)
        close = self.closing(thought)
        if not answer:
            return Rendered(opening, thought, close.rstrip() + self.end)
        prefix = "" if self.answer_prefix.strip() in answer else self.answer_prefix
        return Rendered(opening, thought, close + prefix, answer, self.end)

    def closing(self, thought: str) -> str:
        """Return the delimiter that closes a thought.

        It loses its leading newline if the thought is empty and the prompt opened it: that would merge with the
        prompt's newline into a different token.
        """
        return self.think_close if thought or self.opened_by == "model" else self.think_close.lstrip()

    def split(self, text: str, mode: ThoughtMode) -> tuple[str, str, bool]:
        """Split a generated text into (thought, answer, closed). The answer is what follows the last closing delimiter.

        Without a closing delimiter, the text is an unclosed thought with an empty answer if the prompt or the text
        opened a thought. Otherwise all of it is the answer.
        """
        opening, text = self.think_open.strip(), text.strip()
        opened = (mode == "open" and self.opened_by == "prompt") or bool(opening and text.startswith(opening))
        thought, closed, answer = text.rpartition(self.think_close.strip())
        if opened and not closed:
            thought, answer = text, ""
        answer = self._without_header(answer).strip().removeprefix(self.answer_prefix.strip()).strip()
        return thought.removeprefix(opening).strip(), answer, bool(closed) or not opened

    def history(self, text: str, mode: ThoughtMode) -> str:
        """Return what later prompts keep of a generated text, as in `jinja`: the answer; "" for an unclosed thought."""
        if not self.split(text, mode)[1]:
            return ""
        _, close, answer = text.rpartition(self.think_close.strip())
        answer = answer.lstrip("\n") if close and self.history_gap == "cut" else answer
        return self._without_header(answer)

    def jinja(self, system_prompt: str | None = None) -> str:
        """Return this template in Jinja, for `tokenizer.chat_template`.

        Earlier assistant turns lose their thought, as in `history`. A message without delimiters counts as an answer,
        because servers return answers without thoughts. `system_prompt` is used if the dialogue has no system message.
        """
        default_system = self.system.replace(_SLOT, system_prompt) if system_prompt else self.without_system
        values = {
            "bos": self.bos,
            "unsaid": default_system,
            "without_system": self.without_system,
            "system": self.system.split(_SLOT),
            "user": self.user.split(_SLOT),
            "assistant": self.assistant,
            "header": self.answered.removeprefix(self.assistant),
            "opening": self.think_open.strip(),
            "close": self.think_close.strip(),
            "gap": "\n" if self.history_gap == "cut" else "",
            "after_answer": self._after_answer(),
            "after_last": self.end if self.turn_end else self._after_answer(),
            "reply": self._reply("open"),
        }
        return "".join(f"{{%- set {name} = {value!r} -%}}\n" for name, value in values.items()) + _JINJA

    def _without_header(self, answer: str) -> str:
        """Return an answer without what `answered` adds to `assistant`: a model that skips its thought writes that."""
        header, stripped = self.answered.removeprefix(self.assistant), answer.lstrip()
        return stripped.removeprefix(header) if header and stripped.startswith(header) else answer

    def _after_answer(self) -> str:
        """Return what ends an earlier answer: `turn_end`, or the end token and what follows it in a user message."""
        return self.turn_end or self.end + (self.user.rpartition(self.end)[2] if self.end in self.user else "")
