"""Processes that a test started, or that what it tests did."""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from multiprocessing import forkserver, process
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kept_configs  # noqa: F401
import pytest

from alttrain.__main__ import main

FORKS: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
LOADED = ["alttrain.report.figures", "warmed"]
if hasattr(os, "fork"):
    FORKS.set_forkserver_preload(LOADED)


def has_ended(pid: int) -> bool:
    """Whether a process ends within a few seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


class Command:
    """`alttrain ARGUMENT...`, or a script with these arguments, in a process of its own, which ends with the block.

    It works in `folder`, or where the test does. It is forked from a process that has imported torch, transformers,
    peft and Lightning: their imports take longer than a tiny run. The processes of its further devices are forked from
    there, too, and those of a sweep's jobs on several. The libraries have read their environment there, so a test of
    what they read starts Python itself. The report has no figures, which take longer than the rest of it. `PLANTED` in
    the environment is Python that runs first in each of these processes.
    """

    def __init__(
        self, arguments: Sequence[str], script: Path | None = None, folder: Path | None = None, **environment: str
    ) -> None:
        self.arguments = list(arguments)
        self._told = tempfile.TemporaryDirectory()
        self.out, self.err = Path(self._told.name, "out"), Path(self._told.name, "err")
        self.out.touch()
        self.err.touch()
        given = (self.arguments, script, {**os.environ, **environment}, self.out, self.err, folder)
        self.process = FORKS.Process(target=_command, args=(_server(), *given))
        self.process.start()

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *unused: object) -> None:
        self.process.kill()
        self.process.join()
        self._told.cleanup()

    def wait(self, timeout: float = 600) -> "subprocess.CompletedProcess[str]":
        """Wait for the end; what was said. Raises TimeoutExpired after `timeout` seconds."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout, self.out.read_bytes(), self.err.read_bytes())
        said = (path.read_text(encoding="utf-8") for path in (self.out, self.err))
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, *said)


def alttrain(
    arguments: Sequence[str], script: Path | None = None, folder: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    with Command(arguments, script, folder, **environment) as command:
        return command.wait()


@cache
def _server() -> str:
    """The address of the server that all are forked from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where `warmed` is
        forkserver.ensure_running()
    return str(forkserver._forkserver._forkserver_address)  # type: ignore[attr-defined]


class Forked:
    """`subprocess.Popen` of the same command, where a forked process starts it: a fork of the same server."""

    def __init__(
        self,
        server: str,
        files: tuple[Path, Path],
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None = None,
        **unused: object,
    ) -> None:
        arguments = command[command.index("alttrain") + 1 :] if "-m" in command[:2] else command[2:]
        given = ([*arguments], None, dict(env), *files, Path(cwd or os.getcwd()))
        self.process = FORKS.Process(target=_command, args=(server, *given))
        self.process.start()
        process._children.discard(self.process)  # type: ignore[attr-defined]  # not waited for at the end
        self.pid, self.terminate = self.process.pid, self.process.terminate

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *unused: object) -> None:
        self.wait()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _command(
    server: str,
    arguments: list[str],
    script: Path | None,
    environment: dict[str, str],
    out: Path,
    err: Path,
    folder: Path | None = None,
) -> None:
    """In the new process: what a shell does, and the console script or Python."""
    gc.freeze()  # what was imported is no garbage
    if folder:
        os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests beside it ignores it
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    forkserver._forkserver._forkserver_address = server  # type: ignore[attr-defined]
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    exec(environment.get("PLANTED", ""), {})
    sys.argv = [str(script or Path(sys.executable).with_name("alttrain")), *arguments]
    try:
        if script:
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
        else:
            from pytorch_lightning.strategies.launchers import subprocess_script

            from alttrain.run import sweep
            from alttrain.run.stages import report

            forked = SimpleNamespace(Popen=partial(Forked, server, (out, err)))
            subprocess_script.subprocess = sweep.subprocess = forked
            report.draw_all = lambda *unused: nullcontext(list)  # type: ignore[assignment]
            main()
    finally:  # as Python ends. Multiprocessing does neither, and would wait until joblib's idle workers time out
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
