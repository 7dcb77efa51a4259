"""Next-token probabilities of many prompts under one causal language model, for judges. Imports torch.

Prompts are packed into rows of up to `group_tokens` tokens, longest first, without padding. Batch composition changes a
result only through the rounding of matrix products.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from alttrain.backbone.attention import PackedSequences
from alttrain.backbone.memory import PREFILL_TOKENS
from alttrain.generation.decoder import Decoder
from alttrain.generation.engine import Decoding


class TokenScorer:
    """Computes next-token probabilities, and generates short texts greedily, with one model and its tokenizer."""

    def __init__(
        self, model: Any, tokenizer: Any, device: str, group_tokens: int = PREFILL_TOKENS, slots: int = 32
    ) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self.group_tokens, self.slots = group_tokens, slots
        self._decoder = Decoder(model, tokenizer.eos_token_id, slots, device)
        windows = [model.config.max_position_embeddings]
        windows += [getattr(model.config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        self.longest: int = min(window for window in windows if window)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._special = sorted(special, key=len, reverse=True)

    def chat(self, said: Sequence[tuple[str, str]], content: Literal["text", "parts"] = "text", **options: Any) -> str:
        """Return the (role, text) messages rendered in the model's chat template, up to where the model's turn begins.

        `content` says whether the template takes a message as a string ("text") or as a list of parts ("parts"). Raises
        ValueError if there is no chat template, or if it leaves out a message.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{self.tokenizer.name_or_path}: the tokenizer has no chat template")
        plain = [(role, self.plain(text)) for role, text in said]
        messages = [
            {"role": role, "content": text if content == "text" else [{"type": "text", "text": text}]}
            for role, text in plain
        ]
        options = {"add_generation_prompt": True} | options
        rendered: str = self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        for role, text in plain:
            if text.strip() not in rendered:
                raise ValueError(
                    f"{self.tokenizer.name_or_path}: its chat template leaves out the {role}'s message given as "
                    f"content={content}; set the other of text, parts"
                )
        return rendered

    def plain(self, text: str) -> str:
        """Return the text with every special token disabled by a space after its first character."""
        for token in self._special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text that already contains its special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def first_token(self, before: str, answer: str) -> int | None:
        """Return the first token of `answer` when it follows `before`, or None if a token spans the two."""
        start, whole = self.encode(before), self.encode(before + answer)
        return whole[len(start)] if whole[: len(start)] == start and len(whole) > len(start) else None

    def log_probabilities(self, prompts: Sequence[list[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield (indices of a group of prompts, next-token log-probabilities (prompts, vocabulary) in float32)."""
        for group in self._groups(prompts):
            yield group, self._forward([prompts[number] for number in group])

    def next_token(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> Iterator[tuple[int, list[float]]]:
        """Yield (index of a prompt, the probabilities of `tokens` as its next token), group by group."""
        for group, logs in self.log_probabilities(prompts):
            chosen = logs[:, list(tokens)].exp().tolist()
            yield from zip(group, chosen, strict=True)

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False) -> list[str]:
        """Return the greedy continuation of each prompt. Special tokens are kept if `special` is set."""
        written = self._decoder.generate(prompts, Decoding(max_new_tokens))
        return [self.tokenizer.decode(ids, skip_special_tokens=not special) for ids in written]

    def _groups(self, prompts: Sequence[list[int]]) -> Iterator[list[int]]:
        """Yield the indices of the prompts of each row, longest first, so that running out of memory shows at once.

        Raises ValueError if a prompt is empty or longer than the model's context.
        """
        group, tokens = list[int](), 0
        for number in sorted(range(len(prompts)), key=lambda number: -len(prompts[number])):
            length = len(prompts[number])
            if not 0 < length <= self.longest:
                raise ValueError(f"a prompt of {length} tokens; this model takes 1 to {self.longest}")
            if group and tokens + length > self.group_tokens:
                yield group
                group, tokens = [], 0
            group.append(number)
            tokens += length
        if group:
            yield group

    @torch.inference_mode()
    def _forward(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        lengths = [len(prompt) for prompt in prompts]
        tokens = [token for prompt in prompts for token in prompt]
        positions = [at for length in lengths for at in range(length)]
        ends = (torch.tensor(lengths).cumsum(0) - 1).tolist()
        return self._decoder.forward(tokens, positions, PackedSequences(lengths), ends).float().log_softmax(-1)


class WritingScorer(TokenScorer):
    """A scorer that only generates, through transformers, for models with attention sinks (gpt-oss).

    Packed attention does not support sinks.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str, slots: int = 8) -> None:
        super().__init__(model, tokenizer, device, slots=slots)
        self.longest = model.config.max_position_embeddings
        model.set_attn_implementation("eager")

    def log_probabilities(self, prompts: Sequence[list[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Raise ValueError: packed attention would ignore the sinks."""
        raise ValueError(f"{self.tokenizer.name_or_path}: this model's probabilities cannot be read, only its text")

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False) -> list[str]:
        """Return the greedy continuation of each prompt, in left-padded batches of `slots` prompts."""
        written = []
        for start in range(0, len(prompts), self.slots):
            batch = prompts[start : start + self.slots]
            width = max(map(len, batch))
            empty = self.tokenizer.eos_token_id
            ids = torch.tensor([[empty] * (width - len(prompt)) + prompt for prompt in batch], device=self.device)
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
            made = self.model.generate(
                ids,
                attention_mask=mask.to(self.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=empty,
            )
            for answer in made[:, width:].tolist():
                ended = answer.index(empty) + 1 if empty in answer else len(answer)
                written.append(self.tokenizer.decode(answer[:ended], skip_special_tokens=not special))
        return written


LLAMA4_CHUNK = 8192
"""Attention chunk size of Llama 4, in tokens. Llama Guard 4's config omits it; Llama 4's own configs have it."""


def load_scorer(folder: Path, dtype: str, device: str) -> TokenScorer:
    """Load the model and tokenizer from a folder in transformers' format. `dtype` is a config's dtype name."""
    from alttrain.backbone.source import Weights
    from alttrain.backbone.weights import choose_dtype, load_model, load_tokenizer

    model = load_model(Weights(folder, "judge"), choose_dtype(dtype, device), device)
    config: Any = model.config
    if getattr(config, "attention_chunk_size", LLAMA4_CHUNK) is None:
        config.attention_chunk_size = LLAMA4_CHUNK
    sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())
    return (WritingScorer if sinks else TokenScorer)(model, load_tokenizer(folder), device)
