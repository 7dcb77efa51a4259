"""Coordinates the processes of a training on several devices: one leader and its followers.

There is one process per device. The leader runs every stage; followers only train. On one machine the leader starts the
followers when training begins. On several machines torchrun, Slurm or the user starts one process per device. They
connect at MASTER_ADDR and MASTER_PORT, train when the leader trains, and exit when it exits.
"""

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Literal

from alttrain.backbone.device import has_gpu_driver

log = logging.getLogger(__name__)

BEGIN = timedelta(minutes=10)  # how long a follower waits for the leader to start
FOREVER = timedelta(days=365)
LEAVE_S = 10.0  # seconds the leader waits at the end of a run for followers to exit
NEEDED = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def started_by() -> Literal["torchrun", "slurm", "own"]:
    """Return what started this process: torchrun, srun ("slurm"), or the user or the leader ("own")."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    return "slurm" if "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1 else "own"


def is_follower() -> bool:
    """Return whether this process is a follower."""
    ranks = {"torchrun": ("RANK",), "slurm": ("SLURM_PROCID",), "own": ("NODE_RANK", "LOCAL_RANK")}
    return any(int(os.environ.get(name, 0)) for name in ranks[started_by()])


def take_own_gpu() -> None:
    """Make this device's GPU the current one: a follower else would measure and fill the leader's, the first."""
    if not has_gpu_driver():
        return
    import torch

    if (rank := environment().local_rank()) < torch.cuda.device_count():
        torch.cuda.set_device(rank)


def verify(devices: int, nodes: int) -> None:
    """Raise ValueError if the number of started processes is not `devices` x `nodes`."""
    starter, needed = started_by(), devices * nodes
    if starter == "own" and nodes > 1 and (missing := [name for name in NEEDED if name not in os.environ]):
        raise ValueError(
            f"trainer.nodes={nodes}: start this command on every node, by `torchrun --nnodes={nodes} "
            f"--nproc_per_node={devices} ... -m alttrain` or `srun --ntasks-per-node={devices}`, or once on each with "
            f"{', '.join(missing)} set"
        )
    count = int(os.environ["WORLD_SIZE" if starter == "torchrun" else "SLURM_NTASKS"]) if starter != "own" else needed
    if count != needed:
        why = "trainer.devices x trainer.nodes where it trains, and one where it does not"
        raise ValueError(f"{starter} started {count} processes, and this command needs {needed}: {why}")


def environment() -> Any:
    from pytorch_lightning.plugins import environments

    starter = started_by()
    if starter == "own":
        return environments.LightningEnvironment()
    return environments.TorchElasticEnvironment() if starter == "torchrun" else environments.SLURMEnvironment(False)


def _store(job: str) -> Any:
    """Return the key-value store shared by a job's processes. Raises ConnectionError if the leader does not start."""
    distributed: Any = importlib.import_module("torch.distributed")
    cluster, restarts = environment(), os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    address, port = cluster.main_address, cluster.main_port
    serves = not is_follower() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    # multi_tenant: the process group's store uses the same port and server
    try:
        store = distributed.TCPStore(
            address, port, is_master=serves, timeout=BEGIN, wait_for_workers=False, multi_tenant=True
        )
    except RuntimeError as error:
        raise ConnectionError(f"the leader of this training is not at {address}:{port}") from error
    return distributed.PrefixStore(f"alttrain {job} {restarts}", store)


@contextmanager
def lead(job: str, devices: int, nodes: int) -> Iterator[Callable[[], None]]:
    """Yield a function that tells the waiting followers to train. At the end, tell them how the run ended.

    Then wait up to `LEAVE_S` seconds for them to acknowledge it. Followers that the leader starts itself do not wait.
    """
    followers = devices * nodes - 1
    if not followers or (nodes == 1 and started_by() == "own"):
        yield lambda: None
        return
    store, outcome = _store(job), "failed"
    try:
        yield lambda: store.set("train", "now")
        outcome = "done"
    finally:
        store.set("end", outcome)
        if not store.check(["train"]):
            store.set("train", "never")
        deadline = time.monotonic() + LEAVE_S
        while store.add("left", 0) < followers and time.monotonic() < deadline:
            time.sleep(0.05)


def follow(job: str, nodes: int, train: Callable[[], None]) -> None:
    """Train when the leader trains, and return when it is done. If the leader fails, this process exits at once."""
    started_to_train = started_by() == "own" and int(os.environ.get("LOCAL_RANK", 0)) > 0
    if started_to_train and nodes == 1:
        train()
        return
    watch = threading.Thread(target=_watch, args=(_store(job),), name="leader", daemon=True)
    watch.start()
    trains = started_to_train
    if not started_to_train:
        store = _store(job)
        log.info("waiting   for the leader to train")
        with suppress(RuntimeError):  # the leader is gone, and `_watch` exits this process
            store.wait(["train"], FOREVER)
            trains = store.get("train") == b"now"
    if trains:
        train()
    watch.join()


def _watch(store: Any) -> None:
    """Exit this process if the leader fails; otherwise it could hang in a collective."""
    try:
        store.wait(["end"], FOREVER)
        outcome = store.get("end").decode()
        store.add("left", 1)
    except RuntimeError:
        outcome = "gone"
    if outcome != "done":
        log.error("failed    the leader of this training is %s; this process ends, too", outcome)
        os._exit(1)
