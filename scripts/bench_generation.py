"""Tokens per second of greedy generation by alttrain and by transformers, and whether the answers are the same.

    python scripts/bench_generation.py                                        SmolLM2-135M on the CPU
    python scripts/bench_generation.py --device cuda --shape r1_llama_8b --prompts 512 --batch 256

Every contestant answers the same prompts with the same numbers of tokens. With `--mix realistic` most answers are short
and some reach the cap, like refusals and long answers; with `--mix even` all reach it. The length of each answer is set
beforehand, so that all contestants do the same work even if rounding changes their text. Figures are medians of
interleaved rounds, each in its own process. Tokens decoded after the end of an answer do not count.

- one by one       as research scripts do; on a part of the prompts
- batch            `generate` on batches of `--batch`, left-padded
- continuous       transformers' continuous batching
- alttrain         its decoder in this process, with `--batch` slots
- vLLM             with `--batch` sequences at once; only with `--vllm PYTHON`, the Python of an environment that has
                   vLLM and alttrain, such as .venv-vllm/bin/python of `make test-vllm`

The weights are SmolLM2's own if they are in the cache, else random. alttrain's answers in float32 are compared with
transformers', prompt by prompt.
"""

import argparse
import gc
import os
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import (
    all_seconds,
    contest,
    machine,
    ran,
    random_model,
    reason,
    report,
    run_rounds,
    shape_of_option,
    timed,
)

from alttrain.backbone import Weights
from alttrain.backbone.device import keep_freed_memory
from alttrain.backbone.weights import load_model
from alttrain.generation import Decoding
from alttrain.generation.decoder import Decoder
from alttrain.generation.engine import Prompt
from alttrain.records import cache_folder

NO_END = -1
"""Not a token id, so that answers end only at their preset length."""
COMPARED = 64
"""Number of prompts whose float32 answers are compared, and of tokens of each answer."""


def prompts_and_caps(asked: argparse.Namespace, vocabulary: int) -> tuple[list[list[int]], list[int]]:
    """Random prompts near 45 tokens, and the number of tokens of each answer."""
    draw = random.Random(0)
    prompts = [
        [draw.randrange(3, vocabulary) for _ in range(max(12, round(draw.gauss(45, 12))))] for _ in range(asked.prompts)
    ]
    short = [max(10, min(asked.cap, round(draw.gauss(0.28 * asked.cap, 0.08 * asked.cap)))) for _ in prompts]
    if asked.mix == "even":
        return prompts, [asked.cap] * len(prompts)
    return prompts, [asked.cap if number % 7 == 6 else length for number, length in enumerate(short)]


def model_of(asked: argparse.Namespace, dtype: torch.dtype, kernel: str) -> Any:
    """A model with the backbone's own weights if they are in the cache, else with random ones of its shape."""
    found = sorted(cache_folder().glob(f"backbones/{asked.shape}-*/config.json"))
    if found:
        return load_model(Weights(found[0].parent, "cache"), dtype, asked.device, kernel)  # type: ignore[arg-type]
    return random_model(shape_of_option(asked.shape), dtype, asked.device, kernel)


class OneByOne:
    """One prompt at a time, on an eighth of the prompts; seconds are scaled to all prompts by their tokens."""

    def __init__(self, asked: argparse.Namespace, dtype: torch.dtype) -> None:
        self.model = model_of(asked, dtype, "sdpa")
        self.device = asked.device
        self.prompts, self.caps = prompts_and_caps(asked, self.model.config.vocab_size)
        self.part = max(1, len(self.prompts) // 8)

    def answers(self, count: int) -> list[list[int]]:
        """What it writes to the first prompts."""
        return [self.answer(prompt, cap) for prompt, cap in zip(self.prompts[:count], self.caps, strict=False)]

    def answer(self, prompt: list[int], cap: int) -> list[int]:
        """One answer."""
        ids = torch.tensor([prompt], device=self.device)
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=cap, do_sample=False, **no_end()
        )
        return out[0, len(prompt) :].tolist()  # type: ignore[no-any-return]

    def once(self) -> float:
        """Seconds for all prompts, scaled up from those for a part."""
        seconds = timed(lambda: self.answers(self.part), self.device)
        return seconds * sum(self.caps) / sum(self.caps[: self.part])


def no_end() -> dict[str, Any]:
    """Options with which no answer ends by itself."""
    return {"eos_token_id": None, "pad_token_id": 0}


class Batched(OneByOne):
    """`generate` on batches; finished rows are padded until the last one ends."""

    def __init__(self, asked: argparse.Namespace, dtype: torch.dtype) -> None:
        super().__init__(asked, dtype)
        self.size = asked.batch

    def once(self) -> float:
        """Seconds for all prompts."""
        return timed(self.everything, self.device)

    def everything(self) -> None:
        """Generate all batches, in the order of the prompts."""
        for start in range(0, len(self.prompts), self.size):
            prompts, caps = self.prompts[start : start + self.size], self.caps[start : start + self.size]
            longest, due = max(map(len, prompts)), torch.tensor(caps, device=self.device)
            ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=self.device)
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.device)

            def ended(so_far: Any, scores: Any, longest: int = longest, due: Any = due, **unused: Any) -> Any:
                return so_far.shape[1] - longest >= due

            self.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=max(caps),
                do_sample=False,
                stopping_criteria=[ended],
                **no_end(),
            )


class Continuous(OneByOne):
    """transformers' continuous batching."""

    def once(self) -> float:
        """Seconds for all prompts."""
        return timed(self.everything, self.device)

    def everything(self) -> None:
        """Generate for all prompts with one manager."""
        from transformers import GenerationConfig

        config = GenerationConfig(max_new_tokens=max(self.caps), do_sample=False, **no_end())
        with self.model.continuous_batching_context_manager(generation_config=config, block=True, timeout=5) as manager:
            for prompt, cap in zip(self.prompts, self.caps, strict=True):
                manager.add_request(prompt, max_new_tokens=cap)
            waiting = len(self.prompts)
            while waiting:
                result = manager.get_result(timeout=1)
                waiting -= bool(result and result.is_finished())


class Ours:
    """alttrain's decoder."""

    def __init__(self, asked: argparse.Namespace, dtype: torch.dtype) -> None:
        if asked.device == "cpu":
            keep_freed_memory()
        model = model_of(asked, dtype, "packed")
        self.decoder = Decoder(model, NO_END, asked.batch, asked.device)
        self.decoder.ends = set()
        self.device, self.cap = asked.device, asked.cap
        self.prompts, self.caps = prompts_and_caps(asked, model.config.vocab_size)

    def answers(self, count: int) -> list[list[int]]:
        """What it writes to the first prompts."""
        due = zip(self.prompts[:count], self.caps, strict=False)
        return self.decoder.generate([Prompt(ids, "", "", cap) for ids, cap in due], Decoding(self.cap))

    def once(self) -> float:
        """Seconds for all prompts."""
        return timed(lambda: self.answers(len(self.prompts)), self.device)


class Vllm:
    """vLLM, with the same token ids and answer lengths."""

    def __init__(self, asked: argparse.Namespace, dtype: torch.dtype) -> None:
        from vllm import LLM, SamplingParams

        self.prompts, self.caps = prompts_and_caps(asked, shape_of_option(asked.shape)["vocabulary"])
        self.folder = tempfile.TemporaryDirectory()
        found = sorted(cache_folder().glob(f"backbones/{asked.shape}-*/config.json"))
        weights = found[0].parent if found else Path(self.folder.name)
        if not found:
            random_model(shape_of_option(asked.shape), dtype, asked.device, "sdpa").save_pretrained(weights)
        name = str(dtype).removeprefix("torch.")
        longest = max(map(len, self.prompts)) + asked.cap
        on_cpu = asked.device == "cpu"  # there it takes a share of all memory, and compiles for minutes
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        size = {"max_num_seqs": asked.batch, "max_model_len": longest}
        self.model = LLM(str(weights), dtype=name, skip_tokenizer_init=True, enforce_eager=on_cpu, **size)
        self.sampling = [
            SamplingParams(temperature=0, max_tokens=cap, ignore_eos=True, detokenize=False) for cap in self.caps
        ]

    def answers(self, count: int) -> list[list[int]]:
        """What it writes to the first prompts."""
        asked = [{"prompt_token_ids": prompt} for prompt in self.prompts[:count]]
        outputs = self.model.generate(asked, self.sampling[:count], use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def once(self) -> float:
        """Seconds for all prompts."""
        return timed(lambda: self.answers(len(self.prompts)), "cpu")  # returns when all answers are here


MAKERS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "one by one": lambda asked: OneByOne(asked, torch.bfloat16),
    "batch": lambda asked: Batched(asked, torch.bfloat16),
    "continuous": lambda asked: Continuous(asked, torch.bfloat16),
    "alttrain": lambda asked: Ours(asked, torch.bfloat16),
    "vLLM": lambda asked: Vllm(asked, torch.bfloat16),
}


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", default="smollm2_135m", help="an option of conf/backbone")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--cap", type=int, default=192, help="most new tokens")
    parser.add_argument("--mix", choices=("realistic", "even"), default="realistic")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vllm", metavar="PYTHON", help="the Python of an environment with vLLM")
    parser.add_argument("--contestants", default=";".join(MAKERS), help=f"separated by ; of {'; '.join(MAKERS)}")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--only", choices=tuple(MAKERS), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    if asked.only:
        run_rounds(lambda: MAKERS[asked.only](asked), lambda one: one.once(), asked.rounds, asked.device)
        return
    names = [name.strip() for name in asked.contestants.split(";") if name.strip()]
    options = [f"--{key}={getattr(asked, key)}" for key in ("device", "shape", "prompts", "batch", "cap", "mix")]
    if names == ["vLLM"] and not asked.vllm:
        parser.error("the contestant vLLM needs --vllm PYTHON")
    names = [name for name in names if name != "vLLM" or asked.vllm]
    pythons = {"vLLM": asked.vllm} if asked.vllm else {}
    figures = contest(__file__, names, options, asked.rounds, asked.device, pythons)
    prompts, caps = prompts_and_caps(asked, shape_of_option(asked.shape)["vocabulary"])
    about = machine(asked.device) | {
        "prompts": f"{len(prompts)} of {sum(map(len, prompts))} tokens; {sum(caps)} tokens to write, {asked.mix}",
        "batch or slots": asked.batch,
        "float32 answers equal to one by one": compared(asked),
    }
    table = list(table_rows(figures, sum(caps)))
    report(f"greedy generation, {asked.shape} on {asked.device}, bfloat16", table, about, asked.json)


def compared(asked: argparse.Namespace) -> str:
    """How many of the first prompts have equal answers in float32."""
    count = min(COMPARED, asked.prompts)
    theirs = OneByOne(asked, torch.float32).answers(count)
    gc.collect()
    if asked.device == "cuda":
        torch.cuda.empty_cache()
    ours = Ours(asked, torch.float32).answers(count)
    return f"{sum(a == b for a, b in zip(theirs, ours, strict=True))} of {count}"


def table_rows(figures: dict[str, list[Any]], tokens: int) -> Iterator[dict[str, Any]]:
    """The table; a contestant that failed has a row that says why."""
    middles = ran(figures)
    for name, own in figures.items():
        ratios = {f"x {peer}": None for peer in ("one by one", "batch")}
        if name not in middles:
            yield {"": name, "tok/s": reason(own), "from - to": None} | ratios | {"peak GiB": None, "first s": None}
            continue
        seconds, first = all_seconds(own), own[0]["first"]
        yield {
            "": name,
            "tok/s": f"{tokens / middles[name]:,.0f}",
            "from - to": f"{tokens / max(seconds):,.0f} - {tokens / min(seconds):,.0f}",
            **{
                f"x {peer}": f"{middles[peer] / middles[name]:.2f}" if peer in middles else None
                for peer in ("one by one", "batch")
            },
            "peak GiB": f"{max(one['peak'] for one in own):.1f}",
            "first s": None if first is None else f"{first:.1f}",
        }


if __name__ == "__main__":
    main()
