"""Start-up times: `--help` and `--cfg`, refused configs, imports, and loading a cached backbone.

    python scripts/bench_startup.py [--rounds 5] [--json FILE]

Each figure is the median of new processes. The load of the backbone is timed inside its process, after the imports; it
needs SmolLM2-135M in the cache, where the demo puts it. TRL's import is also timed if TRL is installed.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from measuring import machine, median, report

LOAD = """
import time, torch
from alttrain.backbone import Weights
from alttrain.records import cache_folder
from alttrain.backbone.weights import load_model, load_tokenizer
found = sorted(cache_folder().glob("backbones/smollm2_135m-*/config.json"))
if not found:
    raise SystemExit("no cached backbone: run the demo once")
began = time.perf_counter()
load_model(Weights(found[0].parent, "cache"), torch.bfloat16, "cpu")
load_tokenizer(found[0].parent)
print(time.perf_counter() - began)
"""

ALTTRAIN = [sys.executable, "-m", "alttrain"]
TASKS = {
    "alttrain --help": [*ALTTRAIN, "--help"],
    "alttrain --cfg job": [*ALTTRAIN, "--cfg", "job"],
    "alttrain, four typos refused": [*ALTTRAIN, "trainig=x", "training.epocs=1", "backbone=r1_qwen_9b", "seed=a"],
    "import of what training needs": [sys.executable, "-c", "import alttrain.training.fit, alttrain.backbone.weights"],
    "cached backbone, loaded": [sys.executable, "-c", LOAD],
    "import of TRL's trainer": [sys.executable, "-c", "from trl import SFTTrainer"],
}


def seconds(command: list[str]) -> float | None:
    """Seconds of one new process, or the seconds that it prints; None if it cannot run here."""
    began = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    whole = time.perf_counter() - began
    if command[-1] == LOAD:
        return float(done.stdout) if done.returncode == 0 else None
    return whole


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    asked = parser.parse_args()
    tasks = {name: command for name, command in TASKS.items() if "TRL" not in name or importlib.util.find_spec("trl")}
    figures: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(asked.rounds):
        for name, command in tasks.items():
            if (spent := seconds(command)) is not None:
                figures[name].append(spent)
    rows = [
        {
            "": name,
            "seconds": f"{median(own):.2f}" if own else "not here",
            "from - to": f"{min(own):.2f} - {max(own):.2f}" if own else None,
        }
        for name, own in figures.items()
    ]
    report("start-up", rows, machine("cpu"), asked.json)


if __name__ == "__main__":
    main()
