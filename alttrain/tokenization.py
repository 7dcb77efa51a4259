"""Example -> ids and labels, prompt -> ids: the one renderer for training and for prompting.

The prompt is tokenised alone and the response alone, then joined: what the model saw before its first own token in
training is, id for id, what it is prompted with. Nothing is cut: a sequence over the limit raises or is left out by
name, and counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from alttrain.backbone import Backbone, ThoughtMode
from alttrain.records import Example
from alttrain.rewrite import render

IGNORED = -100
"""The label of a position without loss, as in torch's cross-entropy."""


@dataclass(frozen=True)
class Sequence:
    """Token ids of prompt and response; the loss is on the response only."""

    id: str
    prompt: list[int]
    response: list[int]

    @property
    def ids(self) -> list[int]:
        """All ids, in order."""
        return self.prompt + self.response

    @property
    def labels(self) -> list[int]:
        """The ids with the prompt ignored, not shifted."""
        return [IGNORED] * len(self.prompt) + self.response

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class Renderer:
    """Renders through a backbone's template and tokenizer (any fast tokenizer of transformers)."""

    backbone: Backbone
    tokenizer: Any

    def __post_init__(self) -> None:
        if self.end_id == self.tokenizer.unk_token_id or len(self._ids(self.backbone.template.end)) != 1:
            raise ValueError(
                f"template.end={self.backbone.template.end!r} is not one token of this backbone's tokenizer"
            )

    @property
    def end_id(self) -> int:
        """The id of the token that ends a turn."""
        return self._ids(self.backbone.template.end)[-1]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)  # type: ignore[no-any-return]

    def prompt(self, user: str, thought: ThoughtMode, system: str | None = None, opening: str = "") -> list[int]:
        """Ids of a prompt, with the backbone's own system prompt if none is given; `opening` begins the response."""
        text = self.backbone.template.prompt(user, self.backbone.system_prompt if system is None else system, thought)
        return self._ids(text + opening)

    def sequence(self, example: Example) -> Sequence:
        """Prompt and response of an example to train on. Raises ValueError where it has no thought or answer."""
        if not example.thought or not example.answer:
            raise ValueError(f"{example.id}: an example to train on needs a thought and an answer")
        response = self.backbone.template.response(render(example.thought), example.answer)
        return Sequence(example.id, self.prompt(example.prompt, "open"), self._ids(response))

    def sequences(self, examples: Iterable[Example], max_length: int) -> tuple[list[Sequence], list[str]]:
        """Sequences of at most `max_length` tokens, and the ids of the examples left out for being longer."""
        rendered = [self.sequence(example) for example in examples]
        return [s for s in rendered if len(s) <= max_length], [s.id for s in rendered if len(s) > max_length]

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, special tokens kept except the end of the turn."""
        kept = ids[:-1] if ids and ids[-1] == self.end_id else ids
        return self.tokenizer.decode(kept, skip_special_tokens=False)  # type: ignore[no-any-return]
