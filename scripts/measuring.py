"""What the benchmark scripts share: random models of a backbone's shape, lengths like AltTrain's, ceilings, results."""

import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from alttrain import tokenization
from alttrain.backbone import attention

CONF = Path(__file__).resolve().parents[1] / "conf" / "backbone"


def shape_of_option(name: str) -> dict[str, Any]:
    """The dimensions in conf/backbone/NAME.yaml."""
    path = CONF / f"{name}.yaml"
    if not path.is_file():
        raise SystemExit(f"--shape {name}: accepted: {', '.join(sorted(p.stem for p in CONF.glob('*.yaml')))}")
    shape = yaml.safe_load(path.read_text(encoding="utf-8"))["shape"]
    return {key: value for key, value in shape.items() if not key.startswith("_")}


def random_model(shape: dict[str, Any], dtype: torch.dtype, device: str, kernel: str, layers: int | None = None) -> Any:
    """A causal language model of this shape (Llama's architecture) with seeded random weights, in evaluation mode."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    attention.register()
    config = LlamaConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["intermediate"],
        num_hidden_layers=layers or shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        tie_word_embeddings=shape["tied"],
        max_position_embeddings=32768,
        initializer_range=0.02,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention.NAME if kernel == "packed" else kernel
        )
    return model.eval().requires_grad_(False)


def alttrain_lengths(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """(prompt, response) lengths in tokens as in AltTrain-1K: nine in ten responses near 90, one in ten near 860."""
    draw = random.Random(seed)
    lengths = []
    for number in range(count):
        response = draw.gauss(860, 200) if number % 10 == 9 else draw.gauss(90, 15)
        lengths.append((max(15, round(draw.gauss(45, 12))), max(20, round(response))))
    draw.shuffle(lengths)
    return lengths


def random_sequences(lengths: Sequence[tuple[int, int]], vocabulary: int) -> list[tokenization.Sequence]:
    """Sequences of random tokens with these prompt and response lengths."""
    draw = random.Random(1)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(3, vocabulary) for _ in range(count)]

    return [
        tokenization.Sequence(f"r{number}", tokens(prompt), tokens(response))
        for number, (prompt, response) in enumerate(lengths)
    ]


def synchronise(device: str) -> None:
    """Wait until the device has finished, before reading the clock."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds that `work` takes."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def matmul_ceiling(shape: dict[str, Any], dtype: torch.dtype, device: str, rows: int) -> float:
    """FLOP/s of the fastest of the shape's own products (rows, hidden) x (hidden, intermediate) and back."""
    best = 0.0
    for inner, outer in ((shape["hidden"], shape["intermediate"]), (shape["intermediate"], shape["hidden"])):
        a = torch.randn(rows, inner, device=device).to(dtype)
        b = torch.randn(outer, inner, device=device).to(dtype)
        repeats = max(3, int(2e11 / (2 * rows * inner * outer)))

        def products(a: torch.Tensor = a, b: torch.Tensor = b, repeats: int = repeats) -> None:
            for _ in range(repeats):
                a @ b.t()

        products()
        seconds = min(timed(products, device) for _ in range(5))
        best = max(best, repeats * 2 * rows * inner * outer / seconds)
    return best


def machine(device: str) -> dict[str, Any]:
    """The machine and software that this ran on."""
    import peft
    import transformers

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def report(title: str, rows: Sequence[dict[str, Any]], about: dict[str, Any], path: Path | None) -> None:
    """Print the rows as a table, and write them as JSON with their description."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if column == next(iter(rows[0])) else "right")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    for key, value in about.items():
        console.print(f"{key}: {value}", highlight=False)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"title": title, "rows": list(rows), "about": about}, indent=2) + "\n")


def median(values: Sequence[float]) -> float:
    """The median, as the scripts report it."""
    return statistics.median(values)


OUT_OF_MEMORY = "out of memory"


def contest(
    script: str,
    names: Sequence[str],
    options: Sequence[str],
    rounds: int,
    device: str,
    pythons: Mapping[str, str] | None = None,
) -> dict[str, list[Any]]:
    """Each contestant's figures, by name: `script --only NAME` in its own process, interleaved.

    `pythons` names the Python of a contestant that needs another environment than this one.

    On the CPU there is one process per round; on CUDA one process runs all rounds. If a contestant fails, the reason
    replaces its figures, and the others continue.
    """
    figures: dict[str, list[Any]] = {name: [] for name in names}
    passes = rounds if device == "cpu" else 1
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("rounds", total=passes * len(names))
        for _ in range(passes):
            for name in names:
                command = [(pythons or {}).get(name, sys.executable), script, "--only", name, *options]
                command += ["--rounds", "1" if device == "cpu" else str(rounds)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    printed = [line for line in done.stdout.splitlines() if line.startswith(("{", '"'))]
                    figures[name].append(json.loads(printed[-1]))
                elif done.returncode == -9:
                    figures[name].append(OUT_OF_MEMORY)
                else:
                    print(f"{name} failed:\n{done.stderr[-3000:]}", file=sys.stderr)
                    figures[name].append((done.stderr.splitlines() or ["failed"])[-1][:60])
                progress.advance(task)
    return figures


def ran(figures: dict[str, list[Any]]) -> dict[str, float]:
    """The median seconds of the contestants that did not fail."""
    return {name: median(all_seconds(own)) for name, own in figures.items() if reason(own) is None}


def reason(own: Sequence[Any]) -> str | None:
    """Why a contestant failed, if it did."""
    return next((one for one in own if isinstance(one, str)), None)


def run_rounds(make: Callable[[], Any], once: Callable[[Any], float], rounds: int, device: str) -> None:
    """Build one contestant, run it and print its figures as JSON, or that it ran out of memory."""
    try:
        began = time.perf_counter()
        contestant = make()
        built = time.perf_counter() - began
        first = once(contestant) if device == "cuda" else None
        seconds = [once(contestant) for _ in range(rounds)]
    except torch.OutOfMemoryError:
        print("\n" + json.dumps(OUT_OF_MEMORY))
        return
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else peak_gib()
    print("\n" + json.dumps({"built": built, "first": first, "seconds": seconds, "peak": peak}))


def peak_gib() -> float:
    """This process's peak memory (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**20


def all_seconds(figures: Sequence[Any]) -> list[float]:
    """Seconds of all rounds of a contestant."""
    return [second for one in figures for second in one["seconds"]]
