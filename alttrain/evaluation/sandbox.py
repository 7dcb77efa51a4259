"""Runs untrusted Python in bubblewrap with its own network, files, processes and limits.

The program sees the interpreter, its standard library and the system's shared libraries, all read-only, and an empty
/tmp of a fixed size. It sees no environment, no /proc, no shell, and of the installed packages only those that the
caller names. When it ends, its namespace ends, which kills every process that it started. Needs bubblewrap 0.8 or
newer, on x86_64 or aarch64.

Rights, limits and the filter of system calls are set inside the sandbox, before the program starts. The program and its
children use at most `processes` times `memory_mib` of memory, and `disk_mib` plus about 16 MiB of names in /tmp. System
calls are refused with EPERM if they reach past the namespaces, if they hold memory that no limit counts (shared memory,
message queues, memfds, pages given to pipes, larger socket buffers), or if attacks often begin with them.

If a part is missing, nothing runs, and `bubblewrap_fault` names it. With `allow_unsandboxed` programs then run with the
limits of each process alone, and the log warns. docs/security.md says what is not covered.
"""

import functools
import importlib.util
import json
import logging
import os
import platform
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

log = logging.getLogger(__name__)

MEBIBYTE = 1 << 20
INODES = 4096
"""Maximum number of files, folders and links in /tmp; each costs the kernel a kilobyte or more, even when empty."""
_PACKAGES = "/packages"
"""Where a sandbox has the installed packages that it may import."""
_BOOT = """
import json, os, resource, sys
order = json.loads(sys.stdin.buffer.read())
for name, value in order["limits"].items():
    try:
        resource.setrlimit(getattr(resource, name), (value, value))
    except (AttributeError, ValueError):  # macOS lacks some limits
        if order["filter"]:
            raise
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
sys.path += order["path"]
exec(compile(order["source"], "<program>", "exec"), {"__name__": "__main__", "arguments": order["arguments"]})
"""
"""Sets the limits, bounds /tmp, gives up all rights, filters system calls, then runs the program. After the chroot, no
user namespace can be opened."""


@dataclass(frozen=True)
class Execution:
    """How a program ended: on its own with exit `code`, or past its time or output limit. `output` includes stderr."""

    ended: Literal["exit", "timeout", "flood"]
    code: int
    output: str


@dataclass(frozen=True)
class Sandbox:
    """Limits of one program. `seconds` limits wall clock and processor time, `memory_mib` a process's address space."""

    seconds: Annotated[float, Gt(0)] = 10.0
    memory_mib: Annotated[int, Ge(64)] = 1024
    disk_mib: Annotated[int, Ge(1)] = 16
    processes: Annotated[int, Ge(1)] = 4
    output_kib: Annotated[int, Ge(1)] = 64
    allow_unsandboxed: bool = False

    def check(self) -> None:
        """Raise OSError, in one line, if programs cannot run in bubblewrap and may not run without it."""
        if (fault := bubblewrap_fault()) and not self.allow_unsandboxed:
            bare = "judge.sandbox.allow_unsandboxed=true to run model code on this machine with resource limits only"
            raise OSError(f"{fault}; install bubblewrap 0.8 or newer, or set {bare}")

    def run(
        self,
        source: str,
        arguments: Mapping[str, Any] | None = None,
        pass_fds: Sequence[int] = (),
        bare: bool | None = None,
        packages: Sequence[str] = (),
    ) -> Execution:
        """Run a program to its end or its limits. It sees `arguments` (JSON values) as a global variable.

        It can import the installed `packages`, with their compiled parts. Those come without what they depend on.
        """
        limit = self.output_kib * 1024
        ended: Literal["exit", "timeout", "flood"] = "exit"
        with tempfile.TemporaryFile() as output:
            with self.start(source, arguments or {}, pass_fds, output, bare, packages) as process:
                try:
                    process.wait(self.seconds)
                except subprocess.TimeoutExpired:
                    ended = "timeout"
            output.seek(0)
            written = output.read(limit + 1)
        if len(written) > limit:
            ended = "flood"
        return Execution(ended, process.returncode, written[:limit].decode("utf-8", "replace"))

    @contextmanager
    def start(
        self,
        source: str,
        arguments: Mapping[str, Any],
        pass_fds: Sequence[int],
        output: Any,
        bare: bool | None = None,
        packages: Sequence[str] = (),
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A running program that writes to `output`, as in `subprocess.Popen`. When the block ends it is killed with
        every process that it started.

        `bare` runs it without bubblewrap; by default this is so only if it must and may (`check`).
        """
        if bare is None:
            self.check()
            if bare := bool(bubblewrap_fault()):
                _warn_bare()
        folders = [folder for name in packages for folder in _package(name)]
        order = self._order(bool(bare), folders) | {"source": source, "arguments": arguments}
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                [*([] if bare else _wrapped(folders)), str(_interpreter()), *("-I", "-S", "-B"), "-c", _BOOT],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={},
                pass_fds=pass_fds,
                start_new_session=True,
            )
            try:
                assert process.stdin
                with suppress(BrokenPipeError), process.stdin:  # the program died before it read; its output says why
                    process.stdin.write(json.dumps(order).encode())
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _order(self, bare: bool, packages: Sequence[Path]) -> dict[str, Any]:
        """What `_BOOT` is told: limits, rights and the path of the packages, given their folders."""
        # The kernel exempts root from the limit on processes, even in a user namespace: a random unprivileged id.
        user = 0 if bare or os.geteuid() else 20_000 + secrets.randbelow(40_000)
        limits = {
            "RLIMIT_CPU": max(1, round(self.seconds)),
            "RLIMIT_AS": self.memory_mib * MEBIBYTE,
            "RLIMIT_FSIZE": self.disk_mib * MEBIBYTE,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_SIGPENDING": 64,  # timers count as pending signals
            "RLIMIT_CORE": 0,
        }
        if not bare:  # there it would count every process of the user
            limits["RLIMIT_NPROC"] = self.processes
        return {
            "limits": limits,
            "user": user,
            "path": [*dict.fromkeys(str(folder.parent) if bare else _PACKAGES for folder in packages)],
            "filter": "" if bare else (seccomp_filter(platform.machine()) or b"").hex(),
            "tmp": f"size={self.disk_mib * MEBIBYTE},nr_inodes={INODES},mode=1777",
        }


def _wrapped(packages: Sequence[Path] = ()) -> list[str]:
    """The bubblewrap command up to the interpreter. /inner becomes the program's root folder."""
    kinds = ("ipc", "pid", "net", "uts", "cgroup-try", *(("user",) if os.geteuid() else ()))
    rights = ("SETUID", "SETGID", "SYS_CHROOT", "SYS_ADMIN")  # _BOOT uses them, then gives them up
    devices = ("null", "zero", "full", "random", "urandom")  # with --dev, bubblewrap would mount as another user
    return [
        *(str(shutil.which("bwrap")), *(f"--unshare-{kind}" for kind in kinds), "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", *(argument for right in rights for argument in ("--cap-add", f"CAP_{right}"))),
        *("--perms", "0755", "--dir", "/inner", "--perms", "0755", "--dir", "/inner/dev"),
        *(argument for name in devices for argument in ("--dev-bind", f"/dev/{name}", f"/inner/dev/{name}")),
        *("--symlink", "/tmp/stdin", "/inner/dev/stdin"),  # without /proc: the input of a script
        *("--perms", "1777", "--tmpfs", "/inner/tmp"),  # before the libraries: the interpreter may be below /tmp
        *(*_libraries(""), *_libraries("/inner")),
        *("--perms", "0755", "--dir", f"/inner{_PACKAGES}"),
        *(word for path in packages for word in ("--ro-bind", str(path), f"/inner{_PACKAGES}/{path.name}")),
        *("--remount-ro", "/", "--chdir", "/inner/tmp", "--"),
    ]


def _package(name: str) -> list[Path]:
    """The folder of an installed package, and the folder of the libraries that its wheel brings, if any."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise OSError(f"{name} is not installed; the tests of this benchmark import it")
    folder = Path(spec.origin).resolve().parent
    libraries = folder.with_name(f"{folder.name}.libs")
    return [folder, *([libraries] if libraries.is_dir() else [])]


def _interpreter() -> Path:
    """The interpreter in use, outside any virtual environment."""
    return Path(sys._base_executable).resolve()  # type: ignore[attr-defined]


def _libraries(inner: str) -> list[str]:
    """Read-only binds, below `inner`, of the interpreter, its library and the system's libraries, without packages."""
    interpreter = _interpreter()
    prefix = interpreter.parent.parent
    folders = [*map(Path, ("/usr/lib", "/usr/lib64", "/lib", "/lib64")), prefix / "lib", prefix / "lib64"]
    cache = Path("/etc/ld.so.cache")
    binds = []
    # bubblewrap copies the permissions of parent folders, which may exclude every user but root
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


@functools.cache
def bubblewrap_fault() -> str:
    """Why programs cannot run in bubblewrap on this machine, or "". Tried once per process."""
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    if seccomp_filter(platform.machine()) is None:
        return f"there is no filter of system calls for {platform.machine()} (x86_64 and aarch64 have one)"
    output = Sandbox().run("import random, socket; print(6 * 7)", bare=False).output
    return "" if output == "42\n" else f"bubblewrap (bwrap) cannot run here: {output.strip()[-200:]}"


@functools.cache
def _warn_bare() -> None:
    log.warning("running model code WITHOUT a sandbox: %s", bubblewrap_fault())


_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""`platform.machine()` -> its AUDIT_ARCH constant in linux/audit.h."""
_REFUSED = """
add_key 248 217, request_key 249 218, keyctl 250 219,
shmget 29 194, semget 64 190, msgget 68 186, mq_open 240 180,
memfd_create 319 279, memfd_secret 447 447, vmsplice 278 75, io_setup 206 0,
io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427,
bpf 321 280, perf_event_open 298 241, userfaultfd 323 282,
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271,
process_madvise 440 440, pidfd_getfd 438 438, kcmp 312 272,
mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51,
open_tree 428 428, move_mount 429 429, fsopen 430 430, fsconfig 431 431,
fsmount 432 432, fspick 433 433, mount_setattr 442 442,
unshare 272 97, setns 308 268, name_to_handle_at 303 264, open_by_handle_at 304 265,
inotify_init 253 26, inotify_init1 294 26, fanotify_init 300 262, socket 41 198,
setsockopt 54 208
"""
"""Refused calls with their numbers on x86_64 (asm/unistd_64.h) and aarch64 (asm-generic/unistd.h)."""
_CLONE, _CLONE3, _SOCKETPAIR = (56, 220), (435, 435), (53, 199)
_NAMESPACES = 0x7E020000
"""The flags of `clone` that ask for a new namespace."""
_OTHER_ABI = 0x40000000
"""First number of x32, a second table of the same calls on x86_64."""
_AF_UNIX = 1

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in struct seccomp_data."""


def seccomp_filter(machine: str) -> bytes | None:
    """The seccomp filter as an array of struct sock_filter; None for a machine that is not in the tables."""
    if machine not in _ARCHITECTURES:
        return None
    column = [*_ARCHITECTURES].index(machine)
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)
    steps = [  # (code, steps to skip if true, if false, operand)
        *((_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL)),
        *((_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _OTHER_ABI), refuse),
    ]
    for call in _REFUSED.split(","):
        steps += [(_EQUAL, 0, 1, int(call.split()[1 + column])), refuse]
    steps += [
        # a filter cannot read the flags of clone3; libc falls back to clone
        *((_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ENOSYS)),
        *((_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, _NAMESPACES), refuse, allow),
        *((_EQUAL, 0, 3, _SOCKETPAIR[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 1, 0, _AF_UNIX), refuse, allow),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
