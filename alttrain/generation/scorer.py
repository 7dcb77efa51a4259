"""Next-token probabilities of many prompts under one causal language model, for judges. Imports torch.

`TokenScorer` computes them in this process. Prompts are packed into rows of up to `group_tokens` tokens, longest first,
without padding. Batch composition changes a result only through the rounding of matrix products. `ServedScorer` asks a
server of vLLM for them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from alttrain.backbone.memory import PREFILL_TOKENS, Attention
from alttrain.backbone.source import Weights
from alttrain.backbone.support import why_unsupported
from alttrain.backbone.weights import choose_dtype, load_model, load_tokenizer
from alttrain.generation.decoder import Decoder
from alttrain.generation.engine import Decoding, Prompt
from alttrain.llm import (
    Answer,
    FailedTry,
    Failure,
    RequestPool,
    ServerSettings,
    is_other_model,
    json_of,
    printable_name,
)
from alttrain.llm.replies import Reply

MOST_PROBABLE = 20  # tokens whose probability a server gives: vLLM's own limit. Those of less likely tokens count as 0
TOKEN_ID = "token_id:"  # before a token's id, where vLLM is asked for ids rather than texts
LLAMA4_CHUNK = 8192  # tokens of Llama 4's attention chunk, which Llama Guard 4's config omits


def group_by_tokens(rows: Sequence[Sequence[int]], most: int = PREFILL_TOKENS) -> list[list[int]]:
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


class JudgePrompts:
    """Renders and tokenizes what a judge's model is asked. A prompt has at most `longest` tokens.

    `weights` is the identity of the weights (`backbone.Weights`) of a model in this process.
    """

    weights = ""

    def __init__(self, tokenizer: Any, longest: int) -> None:
        self.tokenizer, self.longest = tokenizer, longest
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._special = sorted(special, key=len, reverse=True)

    def chat(self, said: Sequence[tuple[str, str]], content: Literal["text", "parts"] = "text", **options: Any) -> str:
        """Return the (role, text) messages rendered in the model's chat template, up to where the model's turn begins.

        `content` says whether the template takes a message as a string ("text") or as a list of parts ("parts"). Raises
        ValueError if there is no chat template, or if it leaves out a message.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{self.tokenizer.name_or_path}: the tokenizer has no chat template")
        plain = [(role, self.escape_special_tokens(text)) for role, text in said]
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

    def escape_special_tokens(self, text: str) -> str:
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
        start, both = self.encode(before), self.encode(before + answer)
        return both[len(start)] if both[: len(start)] == start and len(both) > len(start) else None


class TokenScorer(JudgePrompts):
    """Computes next-token probabilities, and generates short texts greedily, with one model and its tokenizer."""

    group_tokens, slots = PREFILL_TOKENS, 32
    windows: tuple[str, ...] = ("sliding_window", "attention_chunk_size")

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        windows = [model.config.max_position_embeddings, *(getattr(model.config, name, None) for name in self.windows)]
        super().__init__(tokenizer, min(window for window in windows if window))
        self.model, self.device = model, device
        self._decoder = Decoder(model, tokenizer.eos_token_id, self.slots, device)

    def log_probabilities(self, prompts: Sequence[list[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield (indices of a row's prompts, next-token log-probabilities (prompts, vocabulary) in float32).

        Raises ValueError if the model computes no numbers, as in float16 where its states grow too large.
        """
        for length in map(len, prompts):
            if not 0 < length <= self.longest:
                raise ValueError(f"a prompt of {length} tokens; this model takes 1 to {self.longest}")
        for group in group_by_tokens(prompts, self.group_tokens):
            with torch.inference_mode():
                logs = self._decoder.prefill([prompts[number] for number in group]).float().log_softmax(-1)
            if logs.isnan().any():
                fault = f"its probabilities in {self.model.dtype} are nan; judge it with dtype=bfloat16 or float32"
                raise ValueError(f"{self.tokenizer.name_or_path}: {fault}")
            yield group, logs

    def next_token(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> Iterator[tuple[int, list[float]]]:
        """Yield (index of a prompt, the probabilities of `tokens` as its next token), group by group."""
        for group, logs in self.log_probabilities(prompts):
            yield from zip(group, logs[:, list(tokens)].exp().tolist(), strict=True)

    def write(
        self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Yield (index of a prompt, its greedy continuation). Special tokens are kept if `special` is set."""
        written = self._decoder.generate([Prompt(ids, "", "") for ids in prompts], Decoding(max_new_tokens))
        yield from enumerate(self.tokenizer.decode(ids, skip_special_tokens=not special) for ids in written)


class WritingScorer(TokenScorer):
    """Only generates, through transformers, for attention that the packed one is not, such as gpt-oss's with sinks."""

    slots, windows = 8, ()

    def log_probabilities(self, prompts: Sequence[list[int]]) -> Iterator[tuple[list[int], torch.Tensor]]:
        raise ValueError(f"{self.tokenizer.name_or_path}: this model's probabilities cannot be read, only its text")

    def write(
        self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Yield (index of a prompt, its greedy continuation), in left-padded batches of `slots` prompts."""
        end = self.tokenizer.eos_token_id
        for start in range(0, len(prompts), self.slots):
            batch = prompts[start : start + self.slots]
            width = max(map(len, batch))
            ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in batch], device=self.device)
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
            outputs = self.model.generate(
                ids,
                attention_mask=mask.to(self.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,  # not that of the model's generation_config
                pad_token_id=end,
            )
            for number, answer in enumerate(outputs[:, width:].tolist(), start):
                ended = answer.index(end) + 1 if end in answer else len(answer)
                yield number, self.tokenizer.decode(answer[:ended], skip_special_tokens=not special)


@dataclass(frozen=True)
class _Probabilities:
    """The probabilities of the tokens that are asked for, as an answer of `RequestPool`."""

    of_tokens: list[float]


class ServedScorer(JudgePrompts):
    """Asks a server of vLLM. The tokenizer is in this process, and the server receives token ids.

    The server gives the `MOST_PROBABLE` tokens at a position. Its probabilities are over the whole vocabulary. In place
    of an answer, its failure is yielded.
    """

    def __init__(self, server: ServerSettings, folder: Path) -> None:
        """`folder` has the tokenizer of the model that the server serves."""
        tokenizer = load_tokenizer(folder)
        super().__init__(tokenizer, int(tokenizer.model_max_length))
        self.server = server

    def next_token(
        self, prompts: Sequence[list[int]], tokens: Sequence[int]
    ) -> Iterator[tuple[int, list[float] | Failure]]:
        """Yield (index of a prompt, the probabilities of `tokens` as its next token), in order of arrival."""

        def read(choice: Any) -> _Probabilities | FailedTry:
            likeliest = choice["logprobs"]["top_logprobs"][0]
            if not likeliest or not all(name.startswith(TOKEN_ID) for name in likeliest):
                return FailedTry("the server gives no ids of likely tokens; vLLM does", "refused")
            masses = {int(name.removeprefix(TOKEN_ID)): math.exp(log) for name, log in likeliest.items()}
            if not all(0 <= mass < 1.01 for mass in masses.values()):  # nan, too
                raise ValueError("no probability")
            return _Probabilities([masses.get(token, 0.0) for token in tokens])

        settings = {"max_tokens": 1, "logprobs": MOST_PROBABLE, "return_tokens_as_token_ids": True}
        for number, answer in self._answers(prompts, settings, read):
            yield number, answer.of_tokens if isinstance(answer, _Probabilities) else answer

    def write(
        self, prompts: Sequence[list[int]], max_new_tokens: int, special: bool = False
    ) -> Iterator[tuple[int, str | Failure]]:
        """Yield (index of a prompt, its greedy continuation), in order of arrival."""

        def read(choice: Any) -> Reply | FailedTry:
            choice["text"].encode()  # fails on a lone surrogate, and on what is no text
            if choice.get("finish_reason") not in ("stop", "length"):
                return FailedTry("the server did not end its answer", "outage")
            return Reply(choice["text"])

        settings = {"max_tokens": max_new_tokens, "repetition_penalty": 1.0, "skip_special_tokens": not special}
        for number, answer in self._answers(prompts, settings, read):
            yield number, answer.text if isinstance(answer, Reply) else answer

    def _answers(
        self, prompts: Sequence[list[int]], settings: Mapping[str, Any], read: Callable[[Any], Answer | FailedTry]
    ) -> Iterator[tuple[int, Answer | Failure]]:
        async def send(client: Any, ids: list[int]) -> Any:
            return await client.completions.with_raw_response.create(
                model=self.server.model_name, prompt=ids, temperature=0.0, extra_body=dict(settings)
            )

        def first_choice(body: bytes) -> Answer | FailedTry:
            try:
                completion = json_of(body)
                name = printable_name(completion.get("model"))
                if is_other_model(name, self.server.model_name):
                    return FailedTry(f"the server says that another model answered, {name}", "refused")
                return read(completion["choices"][0])
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
                return FailedTry("the server's answer has no text, or no probabilities", "outage")

        pool = RequestPool(self.server, enumerate(prompts), send, first_choice, text_of=self.tokenizer.decode)
        yield from pool.results()


def load_scorer(folder: Path, dtype: str, device: str) -> TokenScorer:
    """Load the model and tokenizer from a folder in transformers' format. `dtype` is a config's dtype name."""
    fault = why_unsupported(folder, purpose="judging")
    kernel: Attention = "eager" if fault else "packed"
    model = load_model(Weights(folder, "judge"), choose_dtype(dtype, device), device, kernel, purpose="judging")
    config: Any = model.config
    if getattr(config, "attention_chunk_size", LLAMA4_CHUNK) is None:
        config.attention_chunk_size = LLAMA4_CHUNK
    return (WritingScorer if fault else TokenScorer)(model, load_tokenizer(folder), device)
