"""Example -> ids and labels, prompt -> ids: one renderer for training and for prompting.

Prompt and response are tokenised separately and joined, so the ids before the response are in training exactly those
that the model is prompted with. Nothing is cut: a sequence over the limit raises an error, or is left out by name and
counted. `Renderer.problems` checks the ids of any sequence for this.

Only the template writes special tokens. What users, rows and models say is text: `</think>` or `<|im_end|>` in it is
encoded as ordinary tokens, in training and in prompting alike.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from alttrain.backbone import Backbone, Rendered, ThoughtMode
from alttrain.english import sentences
from alttrain.records import Example
from alttrain.rewrite import render

IGNORED = -100
"""The label of a position without loss, as in torch's cross-entropy."""


@dataclass(frozen=True)
class Marks:
    """Tokens of a response up to the end of its understanding and of its key sentence, and whether it is harmful."""

    understood: int
    key: int
    harmful: bool


@dataclass(frozen=True)
class Sequence:
    """Token ids of prompt and response; the loss is on the response only. `marks` are for SafeKey's losses."""

    id: str
    prompt: list[int]
    response: list[int]
    marks: Marks | None = None

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
        for name in ("end", "bos"):
            text = getattr(self.backbone.template, name)
            ids = self._ids(text)
            if text and (len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id):
                raise ValueError(f"template.{name}={text!r} is not one token of this backbone's tokenizer")

    @cached_property
    def end_id(self) -> int:
        """The id of the token that ends a turn."""
        return self._ids(self.backbone.template.end)[-1]

    @cached_property
    def _bos_ids(self) -> list[int]:
        return self._ids(self.backbone.template.bos)

    @cached_property
    def _close_ids(self) -> list[int]:
        return self._ids(self.backbone.template.think_close.strip())

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)  # type: ignore[no-any-return]

    @cached_property
    def _special(self) -> dict[str, int]:
        """Ids of the added tokens, special or not, that the tokenizer looks for before it splits a text.

        Runs of blanks, which some tokenizers add, are text.
        """
        added = self.tokenizer.added_tokens_decoder.items()
        return {str(token): number for number, token in added if str(token).strip()}

    @cached_property
    def _spelling(self) -> re.Pattern[str]:
        """Finds special tokens as the tokenizer does: the leftmost, and there the longest."""
        names = sorted(self._special, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or "(?!)")

    def spelt(self, *said: str) -> str:
        """The first special token, such as </think>, that one of these texts contains, or ""."""
        return next((found[0] for text in said if (found := self._spelling.search(text))), "")

    def broken(self, text: str) -> str:
        """A rendered text for a server's tokenizer, which cannot know who wrote what.

        Special tokens that the template did not write are broken by a blank after their first character.
        """
        pieces = list(_pieces(text))
        pieces[1::2] = [
            self._spelling.sub(lambda found: f"{found[0][0]} {found[0][1:]}", said) for said in pieces[1::2]
        ]
        return "".join(pieces)

    def _batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, tokenised together."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        forged = [number for number, text in enumerate(texts) if not self._holds_own(text, ids[number])]
        for number, (_, encoding) in zip(forged, self._disguise([texts[number] for number in forged]), strict=True):
            ids[number] = encoding.ids
        return ids

    def _holds_own(self, text: str, ids: list[int]) -> bool:
        """Whether the ids that the tokenizer makes of a text hold the template's special tokens and no others."""
        own = [token for piece in _pieces(text)[::2] for token in self._own_ids(piece)]
        return list(filter(self._special_ids.__contains__, ids)) == own

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self._special.values())

    @cached_property
    def _own_ids(self) -> Callable[[str], list[int]]:
        """Ids of the special tokens in a piece of the template's; cached, for there are few such pieces."""
        return cache(lambda piece: [self._special[found] for found in self._spelling.findall(piece)])

    @cached_property
    def _names(self) -> dict[str, str]:
        """A random name for each special token, which no text can contain."""
        return {token: secrets.token_hex(16) for token in self._special}

    @cached_property
    def _disguised(self) -> Any:
        """The backbone's tokenizer with its special tokens renamed: the original names are ordinary text to it."""
        from tokenizers import Tokenizer

        state, names = json.loads(self.tokenizer.backend_tokenizer.to_str()), self._names
        for token in state["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = state["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(word, word): number for word, number in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(word, word), score] for word, score in model["vocab"]]
        if model.get("unk_token"):
            model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
        made = Tokenizer.from_str(json.dumps(state | {"post_processor": None, "truncation": None, "padding": None}))
        if wrong := [token for token, number in self._special.items() if made.token_to_id(names[token]) != number]:
            raise ValueError(f"backbone.source: this tokenizer has not one id for {wrong[0]!r}; use its newer files")
        return made

    def _disguise(self, texts: list[str]) -> list[tuple[str, Any]]:
        """Each text with the template's special tokens renamed, and its encoding by `_disguised`."""
        if not texts:
            return []
        renamed = []
        for text in texts:
            pieces = list(_pieces(text))
            pieces[::2] = [self._spelling.sub(lambda found: self._names[found[0]], own) for own in pieces[::2]]
            renamed.append("".join(pieces))
        return list(zip(renamed, self._disguised.encode_batch(renamed, add_special_tokens=False), strict=True))

    def prompt(
        self,
        user: str,
        thought: ThoughtMode,
        system: str | None = None,
        turns: Iterable[str] = (),
        answers: Iterable[str] = (),
    ) -> list[int]:
        """Ids of a prompt after the dialogue of `turns` and `answers`.

        `system` None is the backbone's own system prompt, "" is none.
        """
        return self.encode(self.prompt_text(user, thought, system, turns, answers))

    def prompt_text(
        self,
        user: str,
        thought: ThoughtMode,
        system: str | None = None,
        turns: Iterable[str] = (),
        answers: Iterable[str] = (),
    ) -> Rendered:
        """The text of a prompt, with the beginning token."""
        own = self.backbone.system_prompt if system is None else system
        return self.backbone.template.prompt(user, own, thought, turns, answers)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without additions. Special tokens are only where the template wrote them."""
        ids = self._ids(text)
        return ids if self._holds_own(text, ids) else self._disguise([text])[0][1].ids

    def prompts(self, examples: Iterable[Example], thought: ThoughtMode) -> list[list[int]]:
        """Ids of the examples' prompts, with the backbone's own system prompt and earlier user turns."""
        template, system = self.backbone.template, self.backbone.system_prompt
        return self._batch([template.prompt(e.prompt, system, thought, e.turns) for e in examples])

    def sequence(self, example: Example) -> Sequence:
        """Prompt and response of an example to train on. Raises ValueError for one with neither thought nor answer."""
        return self.render([example])[0]

    def render(self, examples: Iterable[Example]) -> list[Sequence]:
        """`sequence` of each example, tokenised together."""
        examples = list(examples)
        responses = self._batch([self._response_text(example) for example in examples])
        prompts = self.prompts(examples, "open")
        return [Sequence(e.id, p, r) for e, p, r in zip(examples, prompts, responses, strict=True)]

    def _response_text(self, example: Example) -> Rendered:
        if example.shape == "prompt_only":
            raise ValueError(f"{example.id}: an example to train on needs a thought or an answer")
        return self.backbone.template.response(render(example.thought), None if example.partial else example.answer)

    def sequences(self, examples: Iterable[Example], max_length: int) -> tuple[list[Sequence], list[str]]:
        """Sequences of at most `max_length` tokens, and the ids of the examples left out for being longer."""
        rendered = self.render(examples)
        return [s for s in rendered if len(s) <= max_length], [s.id for s in rendered if len(s) > max_length]

    def mark(self, examples: Iterable[Example], sequences: Iterable[Sequence]) -> list[Sequence]:
        """The examples' sequences, with marks where the thought has a key sentence after its understanding."""
        examples = list(examples)
        texts = [self._response_text(example) for example in examples]
        placed = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        marked = []
        for example, sequence, text, ids, places in zip(
            examples, sequences, texts, placed["input_ids"], placed["offset_mapping"], strict=True
        ):
            response: str = text
            if not self._holds_own(text, ids):
                ((response, encoding),) = self._disguise([text])
                places = encoding.offsets
            start, end = _key_sentence(example, response)
            understood = sum(stop <= start for _, stop in places)
            key = sum(begin < end for begin, _ in places)
            has = 0 < understood < key
            marked.append(replace(sequence, marks=Marks(understood, key, example.label == "harmful") if has else None))
        return marked

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, special tokens kept except the end of the turn."""
        return self._text(ids[:-1] if ids and ids[-1] == self.end_id else ids)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)  # type: ignore[no-any-return]

    def problems(self, sequence: Sequence, example: Example) -> list[str]:
        """What is wrong with the ids of an example to train on; nothing where the renderer made them.

        They must begin with the ids of the prompt, have loss from there on and not before, have the family's beginning
        token once and in front, decode to the whole response, close the thought once, and train the end of the turn.
        """
        ids, trained, whole = sequence.ids, sequence.response, not example.partial
        prompt = self.prompts([example], "open")[0]
        spelt, due = self._text(trained), self._normal(self._response_text(example))
        rules = {
            "the prompt of generation is not a prefix": ids[: len(prompt)] == prompt,
            "the loss does not begin with the first token the model writes": len(sequence.prompt) == len(prompt),
            "the thought carries no loss": self._normal(render(example.thought)) in spelt,
            "the beginning token is absent, doubled or not in front": self._begins_once(ids),
            "the end of the turn is not trained": trained[-1:] == [self.end_id] or not whole,
            "the turn ends more than once, or where it should go on": trained.count(self.end_id) == whole,
            "the thought is not closed exactly once": self._closings(trained, spelt) == whole,
            "the response is not the text it should be": spelt == due,
        }
        return [problem for problem, holds in rules.items() if not holds]

    def _begins_once(self, ids: list[int]) -> bool:
        """One beginning token, in front, where the template has one; else no doubled one."""
        if self._bos_ids:
            return ids[:1] == self._bos_ids and ids.count(self._bos_ids[0]) == 1
        return ids[:2] != [self.tokenizer.bos_token_id] * 2

    def _closings(self, ids: list[int], text: str) -> int:
        """How often a thought is closed: counted by the delimiter's ids, or by its text where none is special."""
        close = self._close_ids
        if close[0] not in self._special_ids:
            return text.count(self.backbone.template.think_close.strip())
        return sum(ids[start : start + len(close)] == close for start, token in enumerate(ids) if token == close[0])

    def _normal(self, text: str) -> str:
        """The text as the tokenizer's own normalisation (Unicode's NFC in Qwen's) leaves it."""
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        return normalizer.normalize_str(text) if normalizer else text


def _pieces(text: str) -> tuple[str, ...]:
    """In turn what the template wrote and what others said; a text without a template is what others said."""
    return text.pieces if isinstance(text, Rendered) else ("", text)


def _key_sentence(example: Example, response: str) -> tuple[int, int]:
    """Characters of the response where the key sentence begins and ends; (0, 0) where it has none.

    It is the example's own, where the data marks one, or the first after the thought's segment of understanding.
    """
    start = response.find(example.key_sentence) if example.key_sentence else -1
    if start >= 0:
        return start, start + len(example.key_sentence)
    if len(example.thought) < 2 or example.thought[0].step != "understanding":
        return 0, 0
    start = response.find(render(example.thought)) + len(render(example.thought[:2])) - len(example.thought[1].text)
    first, last = next(sentences(example.thought[1].text), (0, 0))
    return start + first, start + last
