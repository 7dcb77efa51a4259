"""Training on several devices, here two processes on the CPU: the same step as on one, to rounding."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alttrain import tokenization
from alttrain.training import SupervisedFineTuning
from alttrain.training.packing import BatchStream, Division

RECIPE = SupervisedFineTuning("t", epochs=2, learning_rate=1e-2, batch_size=4, warmup_steps=2, max_length=64)
RUN = "tiny-embedded-alttrain-demo-s0"


def sequences(count: int) -> list[tokenization.Sequence]:
    return [tokenization.Sequence(f"s{n}", [1] * (1 + n % 3), [2] * (1 + 5 * n % 7)) for n in range(count)]


@pytest.mark.parametrize(("devices", "per_pass"), [(1, None), (2, None), (3, None), (1, 3), (2, 1), (3, 2), (4, None)])
def test_every_example_of_a_step_is_in_one_part_and_the_shares_are_of_tokens(
    devices: int, per_pass: int | None
) -> None:
    rows = sequences(10)
    streams = [BatchStream(rows, RECIPE, 5, division=Division(devices, n, per_pass)) for n in range(devices)]
    assert len({stream.passes for stream in streams}) == 1
    passes, steps = streams[0].passes, streams[0].steps
    assert steps == 6
    parts = [list(stream) for stream in streams]
    assert {len(own) for own in parts} == {steps * passes} == {len(stream) for stream in streams}
    for step in range(steps):
        own = [part for stream in parts for part in stream[step * passes : (step + 1) * passes]]
        counted = [part for part in own if part.share]
        expected = sorted(len(rows[index]) for index in streams[0].members(step))
        assert sorted(length for part in counted for length in part.lengths) == expected
        tokens = sum(len(rows[index].response) for index in streams[0].members(step))
        assert sum(part.share for part in own) == pytest.approx(len(own))
        for part in counted:
            assert part.share == pytest.approx(len(part.targets) / tokens * len(own))
            assert per_pass is None or len(part.lengths) <= per_pass


def test_a_stream_begins_where_a_step_does() -> None:
    rows, division = sequences(10), Division(2, 1, 1)
    whole = list(BatchStream(rows, RECIPE, 5, division=division))
    late = list(BatchStream(rows, RECIPE, 5, start=2, division=division))
    assert [part.lengths for part in late] == [part.lengths for part in whole[2 * 2 :]]


def trained(arguments: list[str], folder: Path, *more: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The loss of each step, and the adapter, of a run in processes of its own."""
    command = [sys.executable, "-m", "alttrain", *arguments, f"output_dir={folder}", "stages=[rewrite,train]", *more]
    command += ["trainer.log_every=1", "dataset.amounts.harmful=15", "training.batch_size=4"]
    environment = {**os.environ, "ALTTRAIN_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("LOCAL_RANK", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / RUN
    with (run / "logs" / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert not (run / "checkpoints").exists()
    return losses, load_file(run / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "more",
    [
        ["trainer.devices=2"],
        ["trainer.devices=2", "trainer.strategy=fsdp"],
        ["trainer.examples_per_pass=1"],
        ["trainer.devices=2", "trainer.examples_per_pass=1"],
    ],
    ids=["ddp", "fsdp", "passes", "ddp-passes"],
)
def test_losses_and_adapter_are_those_of_one_device(tiny_arguments: list[str], tmp_path: Path, more: list[str]) -> None:
    one, alone = trained(tiny_arguments, tmp_path / "one")
    several, together = trained(tiny_arguments, tmp_path / "several", *more)
    assert len(one) == len(several) > 6
    assert max(abs(a - b) for a, b in zip(one, several, strict=True)) < 1e-5
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        assert (weight - together[name]).abs().max() < 1e-5, name
