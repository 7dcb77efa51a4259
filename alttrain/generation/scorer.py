"""Next-token probabilities of many prompts under one causal language model, for judges. Imports torch.

Prompts are packed into rows of up to `group_tokens` tokens, longest first, without padding. Batch composition changes a
result only through the rounding of matrix products.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from alttrain.backbone.memory import PREFILL_TOKENS
from alttrain.backbone.source import Weights
from alttrain.backbone.weights import choose_dtype, load_model, load_tokenizer
from alttrain.generation.decoder import Decoder
from alttrain.generation.engine import Decoding, Prompt

LLAMA4_CHUNK = 8192  # tokens of Llama 4's attention chunk, which Llama Guard 4's config omits


def grouped(rows: Sequence[Sequence[int]], most: int = PREFILL_TOKENS) -> list[list[int]]:
    """Return the indices of rows of tokens in groups of at most `most` tokens; a longer row is a group of its own."""
    groups, tokens = list[list[int]](), 0
    # longest first, so that running out of memory shows at once
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        if not groups or tokens + len(rows[number]) > most:
            groups.append([])
            tokens = 0
        groups[-1].append(number)
        tokens += len(rows[number])
    return groups


class TokenScorer:
    """Computes next-token probabilities, and generates short texts greedily, with one model and its tokenizer."""

    group_tokens, slots = PREFILL_TOKENS, 32

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self._decoder = Decoder(model, tokenizer.eos_token_id, self.slots, device)
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
        """Yield (indices of a row's prompts, next-token log-probabilities (prompts, vocabulary) in float32)."""
        for length in map(len, prompts):
            if not 0 < length <= self.longest:
                raise ValueError(f"a prompt of {length} tokens; this model takes 1 to {self.longest}")
        for group in grouped(prompts, self.group_tokens):
            with torch.inference_mode():
                logs = self._decoder.prefill([prompts[number] for number in group]).float().log_softmax(-1)
            yield group, logs

    def next_token(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> Iterator[tuple[int, list[float]]]:
        """Yield (index of a prompt, the probabilities of `tokens` as its next token), group by group."""
        for group, logs in self.log_probabilities(prompts):
            yield from zip(group, logs[:, list(tokens)].exp().tolist(), strict=True)

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False) -> list[str]:
        """Return the greedy continuation of each prompt. Special tokens are kept if `special` is set."""
        written = self._decoder.generate([Prompt(ids, "", "") for ids in prompts], Decoding(max_new_tokens))
        return [self.tokenizer.decode(ids, skip_special_tokens=not special) for ids in written]


class WritingScorer(TokenScorer):
    """Only generates, through transformers, for models with attention sinks (gpt-oss): packed attention has none."""

    slots = 8

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        super().__init__(model, tokenizer, device)
        self.longest = model.config.max_position_embeddings
        model.set_attn_implementation("eager")

    def log_probabilities(self, prompts: Sequence[list[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        raise ValueError(f"{self.tokenizer.name_or_path}: this model's probabilities cannot be read, only its text")

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False) -> list[str]:
        """Return the greedy continuation of each prompt, in left-padded batches of `slots` prompts."""
        written, end = [], self.tokenizer.eos_token_id
        for start in range(0, len(prompts), self.slots):
            batch = prompts[start : start + self.slots]
            width = max(map(len, batch))
            ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in batch], device=self.device)
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
            limits = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": end}
            made = self.model.generate(ids, attention_mask=mask.to(self.device), **limits)
            for answer in made[:, width:].tolist():
                ended = answer.index(end) + 1 if end in answer else len(answer)
                written.append(self.tokenizer.decode(answer[:ended], skip_special_tokens=not special))
        return written


def load_scorer(folder: Path, dtype: str, device: str) -> TokenScorer:
    """Load the model and tokenizer from a folder in transformers' format. `dtype` is a config's dtype name."""
    model = load_model(Weights(folder, "judge"), choose_dtype(dtype, device), device)
    config: Any = model.config
    if getattr(config, "attention_chunk_size", LLAMA4_CHUNK) is None:
        config.attention_chunk_size = LLAMA4_CHUNK
    sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())
    return (WritingScorer if sinks else TokenScorer)(model, load_tokenizer(folder), device)
