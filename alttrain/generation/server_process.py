"""The engine that starts a server process for a stage and always stops it: `generation=vllm`.

The server writes to server.log in the run's folder. It runs in its own process group and is stopped with the stage, on
any exception, and when this process is killed (on Linux), since a leftover server would keep holding the GPU.
"""

import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, MinLen

from alttrain.backbone.memory import Quantization
from alttrain.generation.engine import EngineConfig, Model
from alttrain.generation.server import Server, ServerEngine

log = logging.getLogger(__name__)

ENDING_S = 15.0
"""Seconds a server has to stop after SIGTERM."""
TOLD_LINES = 5
"""Lines of the server's output shown in an error."""


@dataclass(frozen=True)
class ChildServer(EngineConfig):
    """Starts `command`, plus `with_adapter` if there is an adapter, and sends it requests as `server` says.

    In these and in the server's `model_name`, {model} is the folder of the weights, {name} the model's name, {port} a
    free port, {run} the run's name and {adapter} the adapter's folder. `health` is the path that answers 200 once the
    server is ready, which must be within `start_s` seconds. `environment` is added to this process's environment
    variables.
    """

    server: Server
    command: Annotated[Sequence[str], MinLen(1)]
    with_adapter: Sequence[str] = ()
    health: str = "/health"
    start_s: Annotated[float, Gt(0)] = 900.0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def chunk(self) -> int:
        return self.server.chunk

    def check(self, quantization: Quantization | None, gpu: bool) -> None:
        super().check(quantization, gpu)
        if shutil.which(self._program()) is None:
            raise ValueError(self._not_started("there is no such program"))

    @contextmanager
    def start(self, model: Model) -> Iterator[ServerEngine]:
        """Start the server; it stops with the context. Raises ValueError with the end of its log on failure."""
        if model.adapter and not self.with_adapter:
            program = self.command[0]
            raise ValueError(
                f"generation.with_adapter=[]: {program} serves no adapters; choose generation=in_process, or vllm"
            )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        # the model's name is first, since it may contain the others
        words = {"name": self.server.model_name, "model": str(model.weights()), "run": model.run}
        words |= {"port": address.rpartition(":")[2], "adapter": str(model.adapter.resolve()) if model.adapter else ""}

        def filled(text: str) -> str:
            for word, value in words.items():
                text = text.replace(f"{{{word}}}", value)
            return text

        command = [self._program(), *self.command[1:], *(self.with_adapter if model.adapter else ())]
        model.log.parent.mkdir(parents=True, exist_ok=True)
        with model.log.open("ab") as file:
            try:
                child = subprocess.Popen(
                    [filled(word) for word in command],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                    env={**os.environ, **self.environment},
                )
            except OSError as error:
                raise ValueError(self._not_started(str(error.strerror))) from error
        try:
            self._await(child, address + self.health, model.log)
            server = replace(self.server, base_url=f"{address}/v1", model_name=filled(self.server.model_name))
            with server.start(replace(model, trained=None)) as engine:
                yield engine
        finally:
            end(child)

    def _program(self) -> str:
        """Return the program's name; if it is not on the PATH, its path in this Python environment."""
        own = Path(sys.executable).parent / self.command[0]
        return str(own) if shutil.which(self.command[0]) is None and own.exists() else self.command[0]

    def _not_started(self, reason: str) -> str:
        return (
            f"generation.command: {self.command[0]!r} cannot be started ({reason}); install it, or start a server "
            "yourself and use generation=server"
        )

    def _await(self, child: "subprocess.Popen[bytes]", address: str, output: Path) -> None:
        log.info("generate  waiting for %s; its output is in %s", self.command[0], output)
        until = time.monotonic() + self.start_s
        while time.monotonic() < until:
            if child.poll() is not None:
                raise ValueError(
                    f"generation.command ended with {child.returncode} before it was ready:\n{_end_of(output)}"
                )
            with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.2)
        raise ValueError(f"generation.start_s={self.start_s:g}: the server was not ready in time:\n{_end_of(output)}")


def end(child: "subprocess.Popen[Any]") -> None:
    """Stop a process group with SIGTERM, and with SIGKILL if that takes longer than `ENDING_S` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(child.pid, number)
            child.wait(ENDING_S)
    child.wait()


def _end_with_parent() -> None:
    """Run in the child before exec: have the kernel send SIGTERM to it when the parent dies (Linux only)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # of linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _end_of(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line[:200]}" for line in lines[-TOLD_LINES:])
