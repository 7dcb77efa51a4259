"""A server that is started for a stage, waited for, and always ended: `generation=vllm`.

Its output goes to server.log in the run's folder. It is a process group of its own, which ends with the stage, on any
exception, and with this process, however that ends: a server that outlives its run would hold the GPU.
"""

import atexit
import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, MinLen

from alttrain.generation.server import Server

log = logging.getLogger(__name__)

ENDING_S = 15.0
"""Seconds a server has to end by itself."""
TOLD_LINES = 5


@dataclass(frozen=True)
class ChildServer:
    """Starts `command`, and `with_adapter` behind it where there is an adapter, and asks it as `server` says.

    In the words, and in the server's `model_name`, {model} is the folder of the backbone's weights, {name} what it is
    called, {port} a free port, {run} the run's name and {adapter} its adapter's folder. `health` is the path that
    answers 200 when the server is ready, within `start_s` seconds. `environment` is added to this process's.
    """

    server: Server
    command: Annotated[Sequence[str], MinLen(1)]
    with_adapter: Sequence[str] = ()
    health: str = "/health"
    start_s: Annotated[float, Gt(0)] = 900.0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def chunk(self) -> int:
        """Prompts that are handed over at a time."""
        return self.server.chunk

    @contextmanager
    def running(self, run: str, model: Path, adapter: Path | None, output: Path) -> Iterator[Server]:
        """The server's address while it runs. Raises ValueError, with the log's end, where it does not come up."""
        if adapter and not self.with_adapter:
            raise ValueError(
                f"generation.with_adapter=[]: {self.command[0]} serves no adapters; choose generation=in_process, or "
                "vllm"
            )
        port = _free_port()
        words = {"model": str(model), "name": self.server.model_name, "port": str(port), "run": run}
        words["adapter"] = str(adapter.resolve()) if adapter else ""
        command = [_filled(word, words) for word in (*self.command, *(self.with_adapter if adapter else ()))]
        beside = Path(sys.executable).parent / command[0]  # of this environment, on the PATH or not
        if shutil.which(command[0]) is None and beside.exists():
            command[0] = str(beside)
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as file:
            try:
                child = subprocess.Popen(
                    command,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                    env={**os.environ, **self.environment},
                )
            except OSError as error:
                raise ValueError(
                    f"generation.command: {command[0]!r} cannot be started ({error.strerror}); install it, or start a "
                    "server yourself and use generation=server"
                ) from error
        ending = atexit.register(end, child)
        try:
            self._await(child, f"http://127.0.0.1:{port}{self.health}", output)
            name = _filled(self.server.model_name, words)
            yield replace(self.server, base_url=f"http://127.0.0.1:{port}/v1", model_name=name)
        finally:
            end(child)
            atexit.unregister(ending)

    def _await(self, child: "subprocess.Popen[bytes]", address: str, output: Path) -> None:
        log.info("generate  waiting for %s; its output is in %s", self.command[0], output)
        until = time.monotonic() + self.start_s
        while time.monotonic() < until:
            if child.poll() is not None:
                raise ValueError(
                    f"generation.command ended with {child.returncode} before it was ready:\n{_end_of(output)}"
                )
            try:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.2)
        raise ValueError(f"generation.start_s={self.start_s:g}: the server was not ready in time:\n{_end_of(output)}")


def end(child: "subprocess.Popen[Any]") -> None:
    """End a process group: politely, and after a while not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            continue
    child.wait()


def _filled(word: str, words: Mapping[str, str]) -> str:
    for name, value in words.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _end_with_parent() -> None:
    """In the child, before it becomes the server: be ended when the parent is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_of(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line[:200]}" for line in lines[-TOLD_LINES:])
