"""Where the time of a training step goes: torch's profiler over packed steps, and how cost grows.

    python scripts/profile_training.py                       operators of a step, SmolLM2-135M's shape on the CPU
    python scripts/profile_training.py --trace trace.json    also a trace for chrome://tracing or Perfetto
    python scripts/profile_training.py --growth              seconds as examples, length and layers grow
    python scripts/profile_training.py --device cuda --shape r1_llama_8b --compiled

Random weights and tokens, AltTrain's lengths, LoRA r=16 on the seven projections, 8 examples a step.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_training import ADAPTER, recipe
from measuring import alttrain_lengths, machine, random_model, random_sequences, report, shape_of_option, timed

from alttrain import tokenization
from alttrain.backbone.device import keep_freed_memory
from alttrain.backbone.weights import add_lora
from alttrain.training.batches import pack
from alttrain.training.module import ROW_MULTIPLE, SFTModule, compile_for_training

SHORT_S = 20.0
"""Passes that take less are timed twice."""
LONG = 4096
"""Tokens of a step whose first pass is as good as any."""


class Step:
    """A model with its optimizer, and batches to train on."""

    def __init__(
        self,
        shape: dict[str, Any],
        rows: list[tokenization.Sequence],
        batch: int,
        device: str,
        compiled: bool = False,
        layers: int | None = None,
    ) -> None:
        self.device = device
        model = add_lora(random_model(shape, torch.bfloat16, device, "packed", layers), ADAPTER, 0).train()
        self.module = SFTModule(model, recipe(batch), 1)
        if compiled:
            compile_for_training(model)
        self.optimizer = self.module.configure_optimizers()["optimizer"]
        groups = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        self.batches = [pack(group, ROW_MULTIPLE if compiled else 1).to(device) for group in groups]

    def steps(self, most: int | None = None) -> None:
        """One pass over the batches, or over the first of them."""
        for batch in self.batches[:most]:
            self.optimizer.zero_grad()
            self.module.loss(batch).backward()
            self.optimizer.step()


def growth(name: str, device: str) -> Iterator[dict[str, Any]]:
    """Seconds as one size grows and the others are fixed."""
    shape = shape_of_option(name)
    vocabulary = shape["vocabulary"]

    def row(what: str, step: Step, tokens: int) -> dict[str, Any]:
        if step.batches[0].ids.numel() < LONG:  # the first pass of a small batch is unlike later ones
            step.steps(1)
        seconds = timed(step.steps, device)
        if seconds < SHORT_S:
            seconds = min(seconds, timed(step.steps, device))
        return {"": what, "tokens": tokens, "seconds": f"{seconds:.2f}", "tok/s": f"{tokens / seconds:,.0f}"}

    for examples in (8, 32, 128):
        rows = random_sequences(alttrain_lengths(examples), vocabulary)
        yield row(f"{examples} examples", Step(shape, rows, 8, device), sum(map(len, rows)))
    for length in (128, 512, 2048, 8192, 16384):
        rows = random_sequences([(32, length - 32)] * max(1, 2048 // length), vocabulary)
        yield row(f"rows of {length} tokens, 1 a step", Step(shape, rows, 1, device), sum(map(len, rows)))
    for layers in (2, 8, 16, 32):
        rows = random_sequences(alttrain_lengths(16), vocabulary)
        yield row(f"{layers} layers", Step(shape, rows, 8, device, layers=layers), sum(map(len, rows)))
    for examples in (100, 1_000, 10_000):  # order and packing do not depend on the model
        rows = random_sequences(alttrain_lengths(examples), vocabulary)
        began = time.perf_counter()
        for start in range(0, examples, 8):
            pack(rows[start : start + 8])
        seconds, tokens = time.perf_counter() - began, sum(map(len, rows))
        yield {
            "": f"packing {examples} examples",
            "tokens": tokens,
            "seconds": f"{seconds:.2f}",
            "tok/s": f"{tokens / seconds:,.0f}",
        }


def main() -> None:
    """Profile, or measure growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", default="smollm2_135m", help="an option of conf/backbone")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=20, help="operators to show")
    parser.add_argument("--compiled", action="store_true", help="layers compiled (CUDA)")
    parser.add_argument("--trace", type=Path, help="where to write the trace")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--json", type=Path, help="where to write the growth")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    if asked.device == "cpu":
        keep_freed_memory()
    if asked.growth:
        rows = list(growth(asked.shape, asked.device))
        report(f"growth, {asked.shape} on {asked.device}", rows, machine(asked.device), asked.json)
        return
    shape = shape_of_option(asked.shape)
    rows = random_sequences(alttrain_lengths(8 * asked.steps), shape["vocabulary"])
    step = Step(shape, rows, 8, asked.device, asked.compiled)
    step.steps()
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if asked.device == "cuda" else []
    with torch.profiler.profile(activities=activities) as profile:
        step.steps()
    order = "self_cuda_time_total" if asked.device == "cuda" else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=order, row_limit=asked.rows, max_name_column_width=48))
    if asked.trace:
        profile.export_chrome_trace(str(asked.trace))


if __name__ == "__main__":
    main()
