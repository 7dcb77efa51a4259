"""Example -> ids and labels, prompt -> ids. One renderer serves training and generation.

Prompt and response are tokenized separately and concatenated, so the ids before the response are the same in training
and in generation. Nothing is truncated: a sequence that is too long is left out and listed. Only the template writes
special tokens: `</think>` or `<|im_end|>` in a text of users, rows and models is encoded as ordinary tokens.
`Renderer.problems` checks the ids of a sequence against these rules.
"""

import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from alttrain.backbone import Backbone, ChatTemplate, Rendered, ThoughtMode
from alttrain.english import sentences
from alttrain.records import Example
from alttrain.rewrite import render

IGNORED = -100  # the label of positions without loss, as in torch's cross-entropy


@dataclass(frozen=True)
class Marks:
    """What SafeKey's losses look at, in tokens from the start of the response."""

    understood: int  # up to the end of the understanding
    key: int  # up to the end of the key sentence
    harmful: bool  # the example's label


@dataclass(frozen=True)
class Sequence:
    """Token ids of prompt and response. Only the response has loss. `marks` are for SafeKey's losses."""

    id: str
    prompt: list[int]
    response: list[int]
    marks: Marks | None = None

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.response

    @property
    def labels(self) -> list[int]:
        """The ids with `IGNORED` for the prompt, not shifted."""
        return [IGNORED] * len(self.prompt) + self.response

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class Renderer:
    """Renders and tokenizes with a backbone's template and tokenizer (any fast tokenizer of transformers).

    Raises ValueError if the template's end or beginning token is not one token of the tokenizer.
    """

    backbone: Backbone
    tokenizer: Any

    def __post_init__(self) -> None:
        for name in ("end", "bos"):
            text = getattr(self.backbone.template, name)
            ids = self._ids(text)
            if text and (len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id):
                raise ValueError(
                    f"backbone.template.{name}={text!r} is not one token of this backbone's tokenizer; choose the "
                    "backbone/template of its family"
                )

    @cached_property
    def end_id(self) -> int:
        """The id of the token that ends a turn."""
        return self._ids(self.backbone.template.end)[-1]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)  # type: ignore[no-any-return]

    @cached_property
    def _special_ids(self) -> dict[str, int]:
        """Ids of the tokenizer's added tokens, which it matches before it splits a text. Not all are marked as special.

        Whitespace tokens, which some tokenizers add, are left out because they are ordinary text.
        """
        added = self.tokenizer.added_tokens_decoder.items()
        return {str(token): token_id for token_id, token in added if str(token).strip()}

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        """Matches special tokens as the tokenizer does: the leftmost, and the longest at that position."""
        names = sorted(self._special_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or "(?!)")

    def find_special_token(self, *texts: str) -> str:
        """Return the first special token, such as </think>, that one of the texts contains, or ""."""
        return next((match[0] for text in texts if (match := self._special_pattern.search(text))), "")

    def escape_special_tokens(self, text: str) -> str:
        """Return a rendered text for a server's tokenizer, which cannot know who wrote what.

        Special tokens outside the template's pieces are disabled by a space after their first character.
        """
        pieces = list(_pieces(text))
        sub = self._special_pattern.sub
        pieces[1::2] = [sub(lambda match: f"{match[0][0]} {match[0][1:]}", piece) for piece in pieces[1::2]]
        return "".join(pieces)

    def _encodings(self, texts: list[str]) -> list[tuple[str, Any]]:
        """Return each text as it was encoded, and its encoding. Only the template's pieces yield special tokens.

        If another piece spells one, the text is encoded again with the template's tokens renamed, by `_disguised`.
        """
        if not texts:
            return []
        encodings = self.tokenizer(texts, add_special_tokens=False, verbose=False).encodings
        encoded, special = list[tuple[str, Any]](), set(self._special_ids.values())
        for text, encoding in zip(texts, encodings, strict=True):
            names = [name for piece in _pieces(text)[::2] for name in self._special_pattern.findall(piece)]
            expected = [self._special_ids[name] for name in names]
            intact = [token for token in encoding.ids if token in special] == expected
            encoded.append((text, encoding) if intact else self._disguise(text))
        return encoded

    def _disguise(self, text: str) -> tuple[str, Any]:
        """Return a text with the template's special tokens renamed, and its encoding by `_disguised`."""
        pieces = enumerate(_pieces(text))  # the even ones are the template's
        renamed = "".join(piece if number % 2 else self._renamed(piece) for number, piece in pieces)
        return renamed, self._disguised.encode(renamed, add_special_tokens=False)

    def _renamed(self, piece: str) -> str:
        return self._special_pattern.sub(lambda match: self._disguises[match[0]], piece)

    @cached_property
    def _disguises(self) -> dict[str, str]:
        """A random name for each special token, which no text can contain."""
        return {token: secrets.token_hex(16) for token in self._special_ids}

    @cached_property
    def _disguised(self) -> Any:
        """The tokenizer with its special tokens renamed, so that their original names are ordinary text to it."""
        from tokenizers import Tokenizer

        state, names = json.loads(self.tokenizer.backend_tokenizer.to_str()), self._disguises
        state |= {"post_processor": None, "truncation": None, "padding": None}
        model = state["model"]
        naming_keys = [(token, "content") for token in state["added_tokens"]] + [(model, "unk_token")]
        for node, key in naming_keys:
            if node.get(key):
                node[key] = names.get(node[key], node[key])
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(word, word): number for word, number in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(word, word), score] for word, score in model["vocab"]]
        renamed = Tokenizer.from_str(json.dumps(state))
        for token, token_id in self._special_ids.items():
            if renamed.token_to_id(names[token]) != token_id:
                raise ValueError(f"backbone.source: this tokenizer has not one id for {token!r}; use its newer files")
        return renamed

    def prompt_text(
        self,
        user: str,
        thought: ThoughtMode,
        system: str | None = None,
        template: ChatTemplate | None = None,
        **dialogue: Any,
    ) -> Rendered:
        """Return the text of a prompt, as `ChatTemplate.prompt` does; its `turns` and `answers` may be given.

        `system` None uses the backbone's system prompt; "" leaves the template's default turn. `template` None is the
        backbone's.
        """
        system = self.backbone.system_prompt if system is None else system
        return (template or self.backbone.template).prompt(user, system, thought, **dialogue)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, adding nothing. Only the template's pieces yield special tokens."""
        return self._batch([text])[0]

    def begin(self, text: Rendered, then: str) -> tuple[list[int], Rendered]:
        """Return the ids of a text that `then` follows, up to the last token that ends in it, and their text.

        A tokenizer may merge the end of a text with what follows, such as a full stop with line breaks, or split line
        breaks in another way before a word. The ids of the text alone would then not be those of the whole.
        """
        separator = ("",) if len(text.pieces) % 2 == 0 else ()  # a template's piece: `then` is not the template's
        ((encoded, encoding),) = self._encodings([Rendered(*text.pieces, *separator, then)])
        length = len(encoded) - len(then)
        inside = [index for index, (_, end) in enumerate(encoding.offsets) if end <= length]
        count = inside[-1] + 1 if inside else 0
        end = encoding.offsets[count - 1][1] if count else 0
        pieces, excess = list(text.pieces), length - end  # characters of a token that is merged with what follows
        for index in range(len(pieces) - 1, -1, -1):
            removed = min(excess, len(pieces[index]))
            pieces[index] = pieces[index][: len(pieces[index]) - removed]
            excess -= removed
        return encoding.ids[:count], Rendered(*pieces)

    def _batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for _, encoding in self._encodings(texts)]

    def prompts(self, examples: Iterable[Example], thought: ThoughtMode) -> list[list[int]]:
        """Return the ids of the examples' prompts, with the backbone's system prompt and earlier user turns."""
        return self._batch([self.prompt_text(e.prompt, thought, turns=e.turns) for e in examples])

    def render(self, examples: Iterable[Example]) -> list[Sequence]:
        """Return prompt and response of each example. Raises ValueError if one has neither thought nor answer."""
        examples = list(examples)
        responses = self._batch([self._response_text(example) for example in examples])
        prompts = self.prompts(examples, "open")
        return [Sequence(e.id, p, r) for e, p, r in zip(examples, prompts, responses, strict=True)]

    def _response_text(self, example: Example) -> Rendered:
        if example.shape == "prompt_only":
            raise ValueError(f"{example.id}: an example to train on needs a thought or an answer")
        return self.backbone.template.response(render(example.thought), None if example.partial else example.answer)

    def sequences(self, examples: Iterable[Example], max_length: int) -> tuple[list[Sequence], list[str]]:
        """Return (sequences of at most `max_length` tokens, ids of the examples that are longer)."""
        rendered = self.render(examples)
        return [s for s in rendered if len(s) <= max_length], [s.id for s in rendered if len(s) > max_length]

    def mark(self, examples: Iterable[Example], sequences: Iterable[Sequence]) -> list[Sequence]:
        """Return the sequences, with marks if the thought has a key sentence after its understanding."""
        examples, marked = list(examples), []
        encoded = self._encodings([self._response_text(example) for example in examples])
        for example, sequence, (response, encoding) in zip(examples, sequences, encoded, strict=True):
            start, end = _key_sentence(example, response)
            understood = sum(stop <= start for _, stop in encoding.offsets)
            key = sum(begin < end for begin, _ in encoding.offsets)
            marks = Marks(understood, key, example.label == "harmful") if 0 < understood < key else None
            marked.append(replace(sequence, marks=marks))
        return marked

    def locate(self, text: Rendered, places: Iterable[int]) -> tuple[list[int], list[int]]:
        """Return a text's ids, and for each place the index of the token with the character before it.

        Places are in characters, from the start of the text's second piece.
        """
        (encoded, encoding), opening = self._encodings([text])[0], text.pieces[0]
        opening = opening if encoded == text else self._renamed(opening)
        starts = [start for start, _ in encoding.offsets]
        return encoding.ids, [sum(start < len(opening) + place for start in starts) - 1 for place in places]

    def decode(self, ids: list[int]) -> str:
        """Decode generated ids, keeping special tokens except a final end token."""
        return self._text(ids[:-1] if ids and ids[-1] == self.end_id else ids)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)  # type: ignore[no-any-return]

    def problems(self, sequence: Sequence, example: Example) -> list[str]:
        """Return what is wrong with the ids of a training example. The list is empty for ids that this renderer made.

        The ids must start with the prompt's ids and have loss from there on only, contain the beginning token once and
        in front, decode to the complete response, close the thought once, and train the end token.
        """
        ids, trained, complete = sequence.ids, sequence.response, not example.partial
        prompt = self.prompts([example], "open")[0]
        decoded, expected = self._text(trained), self._normal(self._response_text(example))
        if bos := self._ids(self.backbone.template.bos):
            begins_once = ids[:1] == bos and ids.count(bos[0]) == 1
        else:  # then the tokenizer's own is not doubled
            begins_once = ids[:2] != [self.tokenizer.bos_token_id] * 2
        delimiter = self.backbone.template.think_close.strip()
        close = self._ids(delimiter)
        if close[0] in self._special_ids.values():
            starts = [index for index, token in enumerate(trained) if token == close[0]]
            closings = sum(trained[start : start + len(close)] == close for start in starts)
        else:
            closings = decoded.count(delimiter)
        rules = {
            "the prompt of generation is not a prefix": ids[: len(prompt)] == prompt,
            "the loss does not begin with the first token the model writes": len(sequence.prompt) == len(prompt),
            "the thought carries no loss": self._normal(render(example.thought)) in decoded,
            "the beginning token is absent, doubled or not in front": begins_once,
            "the end of the turn is not trained": trained[-1:] == [self.end_id] or not complete,
            "the turn ends more than once, or where it should go on": trained.count(self.end_id) == complete,
            "the thought is not closed exactly once": closings == complete,
            "the response is not the text it should be": decoded == expected,
        }
        return [problem for problem, holds in rules.items() if not holds]

    def _normal(self, text: str) -> str:
        """Normalise a text as the tokenizer does (Unicode's NFC in Qwen's)."""
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        return normalizer.normalize_str(text) if normalizer else text


def _pieces(text: str) -> tuple[str, ...]:
    """Return the alternating pieces of the template and of others. A plain str is a single piece of others."""
    return text.pieces if isinstance(text, Rendered) else ("", text)


def _key_sentence(example: Example, response: str) -> tuple[int, int]:
    """Return (start, end) of the key sentence in the response, in characters; (0, 0) if there is none.

    It is the example's own key sentence, or else the first sentence after the thought's understanding.
    """
    start = response.find(example.key_sentence) if example.key_sentence else -1
    if start >= 0:
        return start, start + len(example.key_sentence)
    if len(example.thought) < 2 or example.thought[0].step != "understanding":
        return 0, 0
    start = response.find(render(example.thought)) + len(render(example.thought[:2])) - len(example.thought[1].text)
    first, last = next(sentences(example.thought[1].text), (0, 0))
    return start + first, start + last
