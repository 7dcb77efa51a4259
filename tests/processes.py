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
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import kept_configs  # noqa: F401

from alttrain.__main__ import main

FORKS: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
LOADED = ["peft", "pytorch_lightning", "transformers", "alttrain.run.sweep", "alttrain.report.figures"]
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
    peft and Lightning: their imports take longer than a tiny run. The libraries have read their environment there, so a
    test of what they read starts Python itself. The report has no figures, which take longer than the rest of it.
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
        self.process = FORKS.Process(target=_command, args=given)
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


def _command(
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
    sys.argv = [str(script or Path(sys.executable).with_name("alttrain")), *arguments]
    try:
        if script:
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
        else:
            from alttrain.run.stages import report

            report.draw_all = lambda *unused: nullcontext(list)  # type: ignore[assignment]
            main()
    finally:  # as Python ends. Multiprocessing does neither, and would wait until joblib's idle workers time out
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
