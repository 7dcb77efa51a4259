"""Runs untrusted Python in bubblewrap, with its own network, files, processes and limits. No files read or written.

Inside there are the interpreter, its standard library and the system's shared libraries, all read-only, an empty /tmp
of a fixed size, and nothing else: no environment, no /proc, no shell, no site-packages. A program ends with its
namespace: whatever it started dies with it. Needs bubblewrap 0.8 or newer, on x86_64 or aarch64.

Rights, limits and the filter of system calls (`seccomp`) are set inside, before the program starts. The kernel exempts
root from the limit on processes, even where a user namespace gives it another name; run as root, the sandbox therefore
changes to a random unprivileged id. All that a program starts holds at most `processes` times `memory_mib`, and
`disk_mib` and some 16 MiB of names in /tmp; what is known to hold memory beside these is refused.
Not covered: a program that attacks the kernel itself, or that measures the machine by the time things take. Run hostile
research models on a machine of their own. Where a part of this is missing nothing runs, and `bubblewrap_fault` says
which; with `allow_unsandboxed` there are the limits of each process alone, and the log warns.
"""

import functools
import json
import logging
import os
import platform
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from alttrain.evaluation.seccomp import seccomp_filter

log = logging.getLogger(__name__)

MEBIBYTE = 1 << 20
INODES = 4096
"""Files, folders and links that /tmp holds: the kernel pays a kilobyte and more for each, an empty one too."""
_BOOT = """
import json, os, resource, sys
order = json.loads(sys.stdin.buffer.read())
for name, value in order["limits"].items():
    resource.setrlimit(getattr(resource, name), (value, value))
if order["filter"]:
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def call(name, *arguments):
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    call("mount", b"tmpfs", b"/inner/tmp", b"tmpfs", ctypes.c_ulong(0x26), order["tmp"].encode())  # remount
    os.chroot("/inner")
    os.chdir("/tmp")
    if order["user"]:
        os.setgroups([])
        os.setgid(order["user"])
        os.setuid(order["user"])
    call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
    steps = bytes.fromhex(order["filter"])
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]
    call("prctl", 38, *map(ctypes.c_ulong, (1, 0, 0, 0)))  # PR_SET_NO_NEW_PRIVS
    call("prctl", 22, ctypes.c_ulong(2), ctypes.byref(Filter(len(steps) // 8, steps)))  # PR_SET_SECCOMP
exec(compile(order["source"], "<program>", "exec"), {"__name__": "__main__", "arguments": order["arguments"]})
"""
"""Sets the limits, bounds /tmp's files, gives up all rights, filters system calls, and becomes the program. A process
whose root folder is not that of its mounts may open no user namespace: that is what chroot is for."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended: by itself with `code`, or at its time or output limit. `output` is stdout and stderr."""

    ended: Literal["exit", "timeout", "flood"]
    code: int
    output: str


@dataclass(frozen=True)
class Sandbox:
    """Limits of one program. `seconds` is wall clock and processor time; memory is the address space of one process."""

    seconds: Annotated[float, Gt(0)] = 10.0
    memory_mib: Annotated[int, Ge(64)] = 1024
    disk_mib: Annotated[int, Ge(1)] = 16
    processes: Annotated[int, Ge(1)] = 4
    output_kib: Annotated[int, Ge(1)] = 64
    allow_unsandboxed: bool = False

    def verify(self) -> None:
        """Raise OSError, in one line, where programs can run neither in bubblewrap nor, being allowed, without it."""
        fault = bubblewrap_fault()
        if fault and not self.allow_unsandboxed:
            raise OSError(
                f"{fault}; install bubblewrap 0.8 or newer, or set judge.sandbox.allow_unsandboxed=true to run model "
                "code on this machine with resource limits only"
            )

    def run(self, source: str, arguments: Mapping[str, Any] | None = None, pass_fds: Sequence[int] = ()) -> Outcome:
        """Run a program to its end or its limits. It finds `arguments` (JSON values) as a global of that name."""
        deadline = time.monotonic() + self.seconds
        with self.started(source, arguments, pass_fds, subprocess.PIPE) as process:
            output, ended = self._collect(process, deadline)
            if ended == "exit":
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    ended = "timeout"
        return Outcome(ended, process.returncode, output.decode("utf-8", "replace"))

    @contextmanager
    def started(
        self, source: str, arguments: Mapping[str, Any] | None, pass_fds: Sequence[int], output: int
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A running program, killed with all it started when the block ends."""
        self.verify()
        bare = bool(bubblewrap_fault())
        if bare:
            _warn_bare()
        with self._process(source, arguments or {}, pass_fds, output, bare) as process:
            yield process

    @contextmanager
    def _process(
        self, source: str, arguments: Mapping[str, Any], pass_fds: Sequence[int], output: int, bare: bool
    ) -> Iterator[subprocess.Popen[bytes]]:
        user = 0 if bare or os.geteuid() else 20_000 + secrets.randbelow(40_000)
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                [*([] if bare else _wrapped()), str(_interpreter()), *("-I", "-S", "-B"), "-c", _BOOT],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={},
                pass_fds=pass_fds,
                start_new_session=True,
            )
            try:
                order = {"limits": self._limits(), "user": user, "source": source, "arguments": arguments}
                order["filter"] = "" if bare else (seccomp_filter(platform.machine()) or b"").hex()
                order["tmp"] = f"size={self.disk_mib * MEBIBYTE},nr_inodes={INODES},mode=1777"
                assert process.stdin
                with (
                    suppress(BrokenPipeError),
                    process.stdin,
                ):  # where it died before it could read, its output says why
                    process.stdin.write(json.dumps(order).encode())
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if process.stdout:
                    process.stdout.close()

    def _collect(
        self, process: subprocess.Popen[bytes], deadline: float
    ) -> tuple[bytes, Literal["exit", "timeout", "flood"]]:
        """What a program writes, up to the output limit, and whether it hit one."""
        assert process.stdout
        output = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if not selector.select(left):
                    break
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    return bytes(output), "exit"
                output += chunk
                if len(output) > self.output_kib * 1024:
                    return bytes(output[: self.output_kib * 1024]), "flood"
        return bytes(output), "timeout"

    def _limits(self) -> dict[str, int]:
        return {
            "RLIMIT_CPU": max(1, round(self.seconds)),
            "RLIMIT_AS": self.memory_mib * MEBIBYTE,
            "RLIMIT_FSIZE": self.disk_mib * MEBIBYTE,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_SIGPENDING": 64,  # timers count as signals that are due
            "RLIMIT_CORE": 0,
        }


def _wrapped() -> list[str]:
    """The bubblewrap command up to the interpreter. What the program will see is below /inner."""
    kinds = ("ipc", "pid", "net", "uts", "cgroup-try", *(("user",) if os.geteuid() else ()))
    rights = ("SETUID", "SETGID", "SYS_CHROOT", "SYS_ADMIN")  # until _BOOT has used them
    devices = ("null", "zero", "full", "random", "urandom")  # with --dev, bubblewrap would mount as another user
    return [
        *(str(_bubblewrap()), *(f"--unshare-{kind}" for kind in kinds), "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", *(argument for right in rights for argument in ("--cap-add", f"CAP_{right}"))),
        *("--perms", "0755", "--dir", "/inner", "--perms", "0755", "--dir", "/inner/dev"),
        *(argument for name in devices for argument in ("--dev-bind", f"/dev/{name}", f"/inner/dev/{name}")),
        *("--perms", "1777", "--tmpfs", "/inner/tmp"),  # before libraries: the interpreter may stand below /tmp
        *(*_libraries(""), *_libraries("/inner")),
        *("--remount-ro", "/", "--chdir", "/inner/tmp", "--"),
    ]


def _interpreter() -> Path:
    """The interpreter in use, outside any virtual environment."""
    return Path(sys._base_executable).resolve()  # type: ignore[attr-defined]


def _libraries(inner: str) -> list[str]:
    """Read-only binds, below the folder `inner`, of the interpreter, its library and the system's, without packages."""
    interpreter = _interpreter()
    prefix = interpreter.parent.parent
    folders = [*map(Path, ("/usr/lib", "/usr/lib64", "/lib", "/lib64")), prefix / "lib", prefix / "lib64"]
    cache = Path("/etc/ld.so.cache")
    binds = []
    # bubblewrap would make the folders on the way readable by root alone where they are so outside.
    for parent in dict.fromkeys(parent for path in (interpreter, *folders, cache) for parent in reversed(path.parents)):
        binds += ["--perms", "0755", "--dir", f"{inner}{parent}"]
    for folder in dict.fromkeys(folders):
        if folder.is_symlink():
            binds += ["--symlink", os.readlink(folder), f"{inner}{folder}"]
        elif folder.is_dir():
            binds += ["--ro-bind", str(folder), f"{inner}{folder}"]
            for packages in sorted(folder.glob("python3*/*-packages")):
                binds += ["--tmpfs", f"{inner}{packages}", "--remount-ro", f"{inner}{packages}"]
    binds += ["--ro-bind", str(interpreter), f"{inner}{interpreter}"]
    return [*binds, "--ro-bind-try", str(cache), f"{inner}{cache}"]


def _bubblewrap() -> str | None:
    return shutil.which("bwrap")


@functools.cache
def bubblewrap_fault() -> str:
    """Why programs cannot run in bubblewrap on this machine, or nothing where they can. Tried once."""
    if _bubblewrap() is None:
        return "bubblewrap (bwrap) is not installed"
    if seccomp_filter(platform.machine()) is None:
        return f"there is no filter of system calls for {platform.machine()} (x86_64 and aarch64 have one)"
    program = "import random, socket; print(6 * 7)"
    with Sandbox()._process(program, {}, (), subprocess.PIPE, bare=False) as process:
        assert process.stdout
        output = process.stdout.read().decode("utf-8", "replace")
    return "" if output == "42\n" else f"bubblewrap (bwrap) cannot run here: {output.strip()[-200:]}"


@functools.cache
def _warn_bare() -> None:
    log.warning("running model code WITHOUT a sandbox: %s", bubblewrap_fault())
