"""Training on several devices, here two processes on the CPU: the same step as on one, to rounding."""

import csv
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import tiny_overrides
from processes import Command, alttrain
from safetensors.torch import load_file

from alttrain import tokenization
from alttrain.run.status import statuses
from alttrain.training import SupervisedFineTuning, distributed
from alttrain.training.batches import BatchStream
from alttrain.training.distributed import is_follower, take_own_gpu, verify

RECIPE = SupervisedFineTuning("t", epochs=2, learning_rate=1e-2, batch_size=4, warmup_steps=2, max_length=64)
RUN = "tiny-embedded-alttrain-demo-s0"
Trained = tuple[list[float], dict[str, torch.Tensor]]


def sequences(count: int) -> list[tokenization.Sequence]:
    return [tokenization.Sequence(f"s{n}", [1] * (1 + n % 3), [2] * (1 + 5 * n % 7)) for n in range(count)]


@pytest.mark.parametrize(("devices", "passes"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (4, 1)])
def test_every_example_of_a_step_is_in_one_part_and_the_shares_are_of_tokens(devices: int, passes: int) -> None:
    rows = sequences(10)
    streams = [BatchStream(rows, RECIPE, 5, devices=devices, device=n, passes=passes) for n in range(devices)]
    steps = streams[0].steps
    assert steps == 6
    parts = [list(stream) for stream in streams]
    assert {len(own) for own in parts} == {steps * passes} == {len(stream) for stream in streams}
    for step in range(steps):
        own = [part for stream in parts for part in stream[step * passes : (step + 1) * passes]]
        counted = [part for part in own if part.loss_scale]
        assert sum(part.tokens for part in counted) == sum(len(rows[index]) for index in streams[0].members(step))
        expected = sorted(len(rows[index]) for index in streams[0].members(step))
        assert sorted(length for part in counted for length in part.lengths) == expected
        tokens = sum(len(rows[index].response) for index in streams[0].members(step))
        assert sum(part.loss_scale for part in own) == pytest.approx(len(own))
        for part in counted:
            assert part.loss_scale == pytest.approx(len(part.targets) / tokens * len(own))
            assert len(part.lengths) <= math.ceil(RECIPE.batch_size / (devices * passes))


def test_a_stream_begins_where_a_step_does() -> None:
    rows, second = sequences(10), {"devices": 2, "device": 1, "passes": 2}
    whole = list(BatchStream(rows, RECIPE, 5, **second))
    late = list(BatchStream(rows, RECIPE, 5, start=2, **second))
    assert [part.lengths for part in late] == [part.lengths for part in whole[2 * 2 :]]


def started(
    arguments: list[str], folder: Path, *more: str, runs: Sequence[str] = ("-m", "alttrain"), **environment: str
) -> "subprocess.Popen[str]":
    """A process of a run that starts Python, with its errors in a pipe."""
    command = [sys.executable, *runs, *training(arguments, folder), *more]
    own = {**os.environ, "ALTTRAIN_CACHE": str(folder.parent / "cache"), **environment}
    return subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def forked(arguments: list[str], folder: Path, *more: str, **environment: str) -> Command:
    """The same without the imports."""
    return Command([*training(arguments, folder), *more], ALTTRAIN_CACHE=str(folder.parent / "cache"), **environment)


@pytest.fixture(autouse=True)
def _first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)  # which Lightning sets where it trained


def training(arguments: list[str], folder: Path) -> list[str]:
    """The overrides of a run that rewrites and trains in a folder."""
    more = ["trainer.log_every=1", "dataset.amounts.harmful=15", "training.batch_size=4"]
    return [*arguments, f"output_dir={folder}", "stages=[rewrite,train]", *more]


def trained(arguments: list[str], folder: Path, *more: str, **environment: str) -> Trained:
    """The loss of each step, and the adapter, of a run in processes of its own."""
    own = {"ALTTRAIN_CACHE": str(folder.parent / "cache"), **environment}
    done = alttrain([*training(arguments, folder), *more], **own)
    assert done.returncode == 0, done.stderr
    return found(folder)


@pytest.fixture(scope="module")
def on_one(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """What one device trains by a recipe, made once for each recipe."""

    @cache
    def train(*recipe: str) -> Trained:
        folder = tmp_path_factory.mktemp("one")
        return trained(tiny_overrides(tiny_folder, folder), folder / "one", *recipe)

    return train


def found(folder: Path) -> Trained:
    """The loss of each step, and the adapter, of the run in a folder."""
    run = folder / "runs" / RUN
    with (run / "logs" / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
    assert not (run / "checkpoints").exists()
    (weights,) = [*run.glob("adapter/*.safetensors"), *run.glob("model/*.safetensors")]
    return losses, load_file(weights)


UNLOADED = """
import os
if os.environ.get("LOCAL_RANK") == "1":
    from alttrain.backbone import weights

    load_model = weights.load_model

    def unloaded(*arguments, **options):
        model = load_model(*arguments, **options)
        assert all(weight.is_meta for weight in model.parameters()), "the second process loads the model too"
        return model

    weights.load_model = unloaded
"""


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ([], ["trainer.devices=2", "trainer.strategy=fsdp"]),
        (["training/objective=examples"], ["trainer.examples_per_pass=1"]),
        (
            ["training/objective=safekey", "training.epochs=3"],
            ["trainer.devices=2", "trainer.examples_per_pass=1"],
        ),
        (
            ["training/objective=safekey", "training.epochs=3", "adapter=full"],
            ["trainer.devices=2", "trainer.strategy=fsdp", "trainer.examples_per_pass=1"],
        ),
    ],
    ids=["fsdp", "passes", "ddp-heads-passes", "fsdp-whole-heads-passes"],
)
def test_losses_and_adapter_are_those_of_one_device(
    tiny_arguments: list[str], tmp_path: Path, on_one: Callable[..., Trained], recipe: list[str], more: list[str]
) -> None:
    """DDP of the response's loss alone is tried on two nodes below."""
    one, alone = on_one(*recipe)
    planted = UNLOADED if "trainer.strategy=fsdp" in more else ""
    several, together = trained(tiny_arguments, tmp_path / "several", *recipe, *more, PLANTED=planted)
    assert len(one) == len(several) > 6
    assert max(abs(a - b) for a, b in zip(one, several, strict=True)) < 1e-5
    assert alone.keys() == together.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(weight, together[name], atol=1e-5, rtol=2**-7, msg=name)  # a model's are bfloat16


BFLOAT16 = "trainer.precision=bfloat16"
STOPPED = """
import os, signal
if not int(os.environ.get("LOCAL_RANK", 0)):
    from alttrain.training.module import SFTModule

    whole = SFTModule.training_step

    def step(self, batch, index):
        if index == 3:
            signal.raise_signal(signal.SIGTERM)
        return whole(self, batch, index)

    SFTModule.training_step = step
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["trainer.strategy=ddp", "adapter.dropout=0.2"],
        ["trainer.strategy=fsdp", "training/objective=safekey", "training.epochs=3", "adapter=full_bf16", BFLOAT16],
    ],
    ids=["ddp", "fsdp-whole-heads"],
)
def test_a_signal_to_the_leader_alone_stops_all_devices_and_a_resumed_training_ends_the_same(
    tiny_arguments: list[str], tmp_path: Path, more: list[str]
) -> None:
    """With dropout, whose masks on each device are those of a whole training; or before the first step of heads."""
    more = ["trainer.devices=2", "trainer.examples_per_pass=1", *more]
    _, whole = trained(tiny_arguments, tmp_path / "whole", *more)
    own = (tiny_arguments, tmp_path / "cut", "trainer.checkpoint_every=50", *more)
    if "trainer.strategy=ddp" in more:  # each process starts Python, once in this file
        (tmp_path / "sitecustomize.py").write_text(STOPPED)
        path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        process = started(*own, PYTHONPATH=path)
        said, code = process.communicate(timeout=120)[1], process.returncode
    else:
        with forked(*own, PLANTED=STOPPED) as command:
            done = command.wait(120)
        said, code = done.stderr, done.returncode
    assert code == 130, said
    last = tmp_path / "cut" / "runs" / RUN / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    _, resumed = trained(tiny_arguments, tmp_path / "cut", *more)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


PLANTED = """
import os
if os.environ.get("LOCAL_RANK") == "1":
    from alttrain.config import RunError

    told = "the second device cannot"
    if os.environ["FAILS"] == "before":
        from alttrain.run.stages import train

        def tokenize_examples(*unused):
            raise RunError(told)

        train.tokenize_examples = tokenize_examples
    else:
        from alttrain.training.module import SFTModule

        whole = SFTModule.training_step

        def step(self, *arguments):
            if self.trainer.global_step == 2:
                raise RuntimeError(told)
            return whole(self, *arguments)

        SFTModule.training_step = step
"""


@pytest.mark.parametrize(("flags", "fails"), [([], "before"), ([], "training"), (["-m"], "before")])
def test_what_another_process_fails_with_is_told_once_and_kept(
    tiny_arguments: list[str], tmp_path: Path, flags: list[str], fails: str
) -> None:
    """Lightning kills the leader of a process that failed, or it fails because the connection is gone."""
    own = {"PLANTED": PLANTED, "FAILS": fails}
    with forked([*flags, *tiny_arguments], tmp_path / "outputs", "trainer.devices=2", **own) as command:
        done = command.wait(300)
    said = done.stderr
    assert done.returncode != 0
    assert said.count("the second device cannot") == 1, said
    assert "closed by peer" not in said
    found = statuses(tmp_path / "outputs")[RUN]
    assert (found.state, found.error) == ("failed", "the second device cannot")


def port() -> str:
    """A port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def node(by: str, number: int, at: str) -> dict[str, str]:
    """What tells the process of one of two nodes, with a device each, where it is; both nodes are this machine."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": at}
    if by == "own":
        return {"NODE_RANK": str(number), **where}
    slurm = {"NTASKS": "2", "NTASKS_PER_NODE": "1", "PROCID": str(number), "NODEID": str(number), "LOCALID": "0"}
    slurm |= {"STEP_ID": "0", "JOB_ID": "7", "NNODES": "2", "JOB_NAME": "train"}
    return {f"SLURM_{name}": value for name, value in slurm.items()} | where


def torchrun(number: int, at: str) -> list[str]:
    """How torchrun starts it."""
    own = ["--nnodes=2", f"--node_rank={number}", "--nproc_per_node=1", "--master_addr=127.0.0.1"]
    return ["-m", "torch.distributed.run", *own, f"--master_port={at}", "-m", "alttrain"]


@pytest.mark.parametrize("by", ["own", "slurm", "torchrun"])
def test_two_nodes_train_as_one_device_does(
    tiny_arguments: list[str], tmp_path: Path, on_one: Callable[..., Trained], by: str
) -> None:
    one, alone = on_one()
    at, folder = port(), tmp_path / "nodes"
    own = (tiny_arguments, folder, "trainer.nodes=2")
    if by == "torchrun":  # the leader comes last, and rewrites while the other waits
        processes = [started(*own, runs=torchrun(number, at)) for number in (1, 0)]
        said = [process.communicate(timeout=300)[1] for process in processes]
        ends = [process.returncode for process in processes]
    else:
        with ExitStack() as stack:
            commands = [stack.enter_context(forked(*own, **node(by, number, at))) for number in (1, 0)]
            done = [command.wait(300) for command in commands]
        said, ends = [one.stderr for one in done], [one.returncode for one in done]
    assert ends == [0, 0], said
    several, together = found(folder)
    assert max(abs(a - b) for a, b in zip(one, several, strict=True)) < 1e-5
    for name, weight in alone.items():
        assert (weight - together[name]).abs().max() < 1e-5, name
    record = json.loads((folder / "runs" / RUN / "train.json").read_text())
    assert record["devices"] == 2
    assert "run       " not in said[0]  # the other node only assists


@pytest.mark.parametrize("end", ["fails", "killed"])
def test_who_waits_ends_when_the_leader_does(tiny_arguments: list[str], tmp_path: Path, end: str) -> None:
    """The leader cannot train, or is killed once the other waits for it."""
    at, folder = port(), tmp_path / "nodes"
    arguments = [*tiny_arguments, *(["training.max_length=1"] if end == "fails" else [])]
    with (
        forked(arguments, folder, "trainer.nodes=2", **node("own", 1, at)) as other,
        forked(arguments, folder, "trainer.nodes=2", **node("own", 0, at)) as leader,
    ):
        if end == "killed":
            while other.process.is_alive() and "waiting  " not in other.err.read_text():
                time.sleep(0.05)
            leader.process.kill()
        assert leader.wait(120).returncode != 0
        done = other.wait(120)
    assert done.returncode == 1
    assert ("is gone" if end == "killed" else "is failed") in done.stderr


@pytest.mark.parametrize(
    ("set_", "told"),
    [
        ({}, "trainer.nodes=2: start this command on every node, .* with NODE_RANK, MASTER_ADDR, MASTER_PORT set"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "1"}, "once on each with NODE_RANK set"),
        ({"TORCHELASTIC_RUN_ID": "r", "WORLD_SIZE": "3"}, "torchrun started 3 processes, and this command needs 2"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}, "slurm started 4 processes, and this command needs 2"),
    ],
)
def test_nodes_that_are_not_there_are_told(set_: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in set_.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=told):
        verify(1, 2)


@pytest.mark.parametrize(
    ("set_", "follower"),
    [
        ({}, False),
        ({"LOCAL_RANK": "1"}, True),
        ({"NODE_RANK": "1"}, True),
        ({"TORCHELASTIC_RUN_ID": "r", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, False),
        ({"TORCHELASTIC_RUN_ID": "r", "RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, True),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, True),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, False),
    ],
)
def test_rank_0_of_all_leads(set_: dict[str, str], follower: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in set_.items():
        monkeypatch.setenv(name, value)
    assert is_follower() == follower


def test_a_follower_measures_and_fills_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first, on which the leader's model may lie."""
    taken: list[int] = []
    monkeypatch.setattr(distributed, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for rank in (3, 4):  # the last is of a GPU that is not there, which is told later
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        take_own_gpu()
    assert taken == [3]
