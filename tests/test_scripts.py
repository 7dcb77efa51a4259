"""The benchmark scripts run where there are no weights: contestants of a backbone's shape, made at random."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL = ("--shape", "smollm2_135m", "--rounds", "1")
TRAINING = ("bench_training.py", *SMALL, "--examples", "2", "--batch", "2")
GENERATION = ("bench_generation.py", *SMALL, "--prompts", "2", "--batch", "2", "--cap", "12")


@pytest.mark.parametrize(
    ("command", "contestant"),
    [(TRAINING, "alttrain"), (TRAINING, "peft, tuned"), (GENERATION, "alttrain"), (GENERATION, "batch")],
)
def test_a_contestant_of_random_weights_prints_its_figures(
    tmp_path: Path, command: tuple[str, ...], contestant: str
) -> None:
    name, *options = command
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), "--only", contestant, *options],
        env=os.environ | {"ALTTRAIN_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert len(figures["seconds"]) == 1
    assert figures["seconds"][0] > 0
    assert figures["peak"] > 0
