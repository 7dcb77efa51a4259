"""Next-token probabilities of many prompts under one causal language model, for judges. Imports torch.

Prompts are packed into rows of up to `group_tokens` tokens, the longest first, without padding. A prompt's
probabilities depend on its neighbours only by the rounding of matrix products.
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
    """Scores, and writes a few tokens greedily, with one model and its tokenizer."""

    def __init__(
        self, model: Any, tokenizer: Any, device: str, group_tokens: int = PREFILL_TOKENS, slots: int = 32
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.group_tokens = group_tokens
        self.slots = slots
        windows = [model.config.max_position_embeddings]
        windows += [getattr(model.config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        self.longest: int = min(window for window in windows if window)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._special = sorted(special, key=len, reverse=True)

    def chat(self, said: Sequence[tuple[str, str]], content: Literal["text", "parts"] = "text", **options: Any) -> str:
        """The text of (role, text) messages in the model's own chat template, up to where the model writes."""
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
        """The text with special tokens broken up by a blank after their first character."""
        for token in self._special:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def encode(self, text: str) -> list[int]:
        """Tokens of a text that already holds its special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def first_token(self, before: str, answer: str) -> int | None:
        """The token that `answer` begins with after `before`; None where tokens cross the seam."""
        start, whole = self.encode(before), self.encode(before + answer)
        return whole[len(start)] if whole[: len(start)] == start and len(whole) > len(start) else None

    def log_probabilities(self, prompts: Sequence[list[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(numbers of a group of prompts, their next tokens' log-probabilities (prompts, vocabulary) in float32)."""
        for group in self._groups(prompts):
            yield group, self._forward([prompts[number] for number in group])

    def next_token(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> Iterator[tuple[int, list[float]]]:
        """(prompt's number, the probability of each of `tokens`), group by group."""
        for group, logs in self.log_probabilities(prompts):
            chosen = logs[:, list(tokens)].exp().tolist()
            yield from zip(group, chosen, strict=True)

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False) -> list[str]:
        """What the model writes after each prompt, greedily; with its special tokens where these are `special`."""
        decoder = Decoder(self.model, self.tokenizer.eos_token_id, self.slots, self.device)
        written = decoder.generate(prompts, Decoding(max_new_tokens))
        return [self.tokenizer.decode(ids, skip_special_tokens=not special) for ids in written]

    def _groups(self, prompts: Sequence[list[int]]) -> Iterator[list[int]]:
        """Numbers of prompts that go into one row: the longest first, so that too little memory shows at once."""
        group: list[int] = []
        tokens = 0
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
        logits: torch.Tensor = self.model(
            input_ids=torch.tensor([[token for prompt in prompts for token in prompt]], device=self.device),
            position_ids=torch.tensor([[at for length in lengths for at in range(length)]], device=self.device),
            packed=PackedSequences(lengths),
            use_cache=False,
            logits_to_keep=(torch.tensor(lengths).cumsum(0) - 1).to(self.device),
        ).logits
        return logits[0].float().log_softmax(-1)


class WritingScorer(TokenScorer):
    """For a model with attention sinks (gpt-oss), which packed attention lacks: it only writes, by transformers."""

    def __init__(self, model: Any, tokenizer: Any, device: str, slots: int = 8) -> None:
        super().__init__(model, tokenizer, device, slots=slots)
        self.longest = model.config.max_position_embeddings
        model.set_attn_implementation("eager")

    def log_probabilities(self, prompts: Sequence[list[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Raise ValueError: packed attention would leave the sinks out."""
        raise ValueError(f"{self.tokenizer.name_or_path}: this model's probabilities cannot be read, only its text")

    def write(self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False) -> list[str]:
        """What the model writes after each prompt, greedily, batch by batch with the padding on the left."""
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
"""Tokens that Llama 4's layers see at once, which Llama Guard 4's config leaves out (Llama 4's own have it)."""


def load_scorer(folder: Path, dtype: str, device: str) -> TokenScorer:
    """The model and tokenizer of a folder that transformers can load from. `dtype` is a config's name of one."""
    from alttrain.backbone.source import Weights
    from alttrain.backbone.weights import choose_dtype, load_model, load_tokenizer

    model = load_model(Weights(folder, "judge"), choose_dtype(dtype, device), device)
    config: Any = model.config
    if getattr(config, "attention_chunk_size", LLAMA4_CHUNK) is None:
        config.attention_chunk_size = LLAMA4_CHUNK
    sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())
    return (WritingScorer if sinks else TokenScorer)(model, load_tokenizer(folder), device)
