"""The sandbox holds what attacks it, and HumanEval is judged by answers alone. Most tests need bubblewrap."""

import ctypes
import gzip
import json
import math
import os
import platform
import resource
import shutil
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from alttrain.evaluation import sandbox as sandbox_module
from alttrain.evaluation.grading import HumanEval, HumanEvalPlus, MBPPPlus, humaneval
from alttrain.evaluation.grading.harness import _loads, decode, encode
from alttrain.evaluation.judges import JudgeContext
from alttrain.evaluation.sandbox import Execution, Sandbox, bubblewrap_fault, seccomp_filter
from alttrain.records import Generation, Judgement

DATA = Path(__file__).parents[2] / "shared" / "data"
DESK = JudgeContext(Path("unused"))
SMALL = Sandbox(seconds=10, memory_mib=256, disk_mib=2, processes=3, output_kib=4)


@pytest.fixture
def box() -> Sandbox:
    """A sandbox with small limits; skips where bubblewrap is absent or cannot run."""
    if fault := bubblewrap_fault():
        pytest.skip(fault)
    return SMALL


# --- hostile programs; each prints what it managed to do ---

CONTAINED: dict[str, tuple[str, str]] = {
    "network": (
        "import socket\ntry: socket.create_connection(('127.0.0.1', arguments['port']), 2); print('out')\n"
        "except OSError: print('held')",
        "held\n",
    ),
    "name lookup": (
        "import socket\ntry: print(socket.gethostbyname('localhost'))\nexcept OSError: print('held')",
        "held\n",
    ),
    "abstract socket": (
        "import socket\ntry: socket.socket(socket.AF_UNIX).connect(arguments['unix']); print('out')\n"
        "except OSError: print('held')",
        "held\n",
    ),
    "fork bomb": (
        "import os, time\nmade = 0\ntry:\n  while made < 100:\n    if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "    made += 1\nexcept OSError: pass\nprint('held' if made < 5 else made, flush=True)\nos._exit(0)",
        "held\n",
    ),
    "memory": ("try: bytearray(1 << 30); print('out')\nexcept MemoryError: print('held')", "held\n"),
    "one big file": (
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: open('/tmp/f', 'wb').write(b'x' * (8 << 20))\nexcept OSError: print('held')",
        "held\n",
    ),
    "many files": (
        "n = 0\ntry:\n  while n < 64: open(f'/tmp/{n}', 'wb').write(b'x' * (1 << 20)); n += 1\nexcept OSError: pass\n"
        "print('held' if n < 3 else n)",
        "held\n",
    ),
    "files elsewhere": (
        "import os\nwritten = []\nfor top in (os.path.dirname(os.__file__), '/', '/usr/lib', '/dev', '/dev/shm', "
        "'/inner', '/root', '/home', '/etc', '/proc', '/sys', '/var'):\n"
        "  try: open(top + '/x', 'w'); written.append(top)\n  except OSError: pass\nprint(written)",
        "[]\n",
    ),
    "home folder": (  # in which the interpreter may be
        "import os, sys\nhome = arguments['home']\ntry: names = os.listdir(home)\nexcept OSError: names = []\n"
        "print([name for name in names if not sys.base_prefix.startswith(os.path.join(home, name))])",
        "[]\n",
    ),
    "secret file": ("try: print(open(arguments['secret']).read())\nexcept OSError: print('held')", "held\n"),
    "symlink escape": (
        "import os\nos.symlink(arguments['secret'], '/tmp/link')\ntry: print(open('/tmp/link').read())\n"
        "except OSError: print('held')",
        "held\n",
    ),
    "dot dot escape": (
        "import os\ntry:\n  os.chroot('.')\nexcept OSError: pass\nos.chdir('/' + '../' * 20)\n"
        "print(os.path.exists('.' + arguments['secret']))",
        "False\n",
    ),
    "environment": ("import os\nprint(sorted(set(os.environ) - {'PWD', 'LC_CTYPE'}))", "[]\n"),
    "other processes": (
        "import os\nprint(os.path.exists('/proc/1'), os.getppid() <= 1, os.getpid() < 10)",
        "False True True\n",
    ),
    "killing the parent": (
        "import os, signal\nheld = 0\nfor target in (arguments['pid'], os.getppid()):\n"
        "  try: os.kill(target, signal.SIGKILL)\n  except OSError: held += 1\nprint('alive')",
        "alive\n",
    ),
    "site packages": ("try: import pydantic; print('out')\nexcept ImportError: print('held')", "held\n"),
    "a shell": (
        "import subprocess\ntry: subprocess.run(['/bin/sh', '-c', 'echo out'])\nexcept OSError: print('held')",
        "held\n",
    ),
    "raising limits": (
        "import resource as r\nheld = 0\nfor limit in (r.RLIMIT_AS, r.RLIMIT_NPROC, r.RLIMIT_FSIZE):\n"
        "  try: r.setrlimit(limit, (1 << 40, 1 << 40))\n  except (ValueError, OSError): held += 1\nprint(held)",
        "3\n",
    ),
    "becoming root": (
        "import os\ntry: os.setuid(0); print('out' if os.geteuid() == 0 else 'held')\nexcept OSError: print('held')",
        "held\n",
    ),
    "new user namespace": (
        "import ctypes\nprint('held' if ctypes.CDLL(None).unshare(0x10000000) else 'out')",
        "held\n",
    ),
    "inherited descriptors": (
        "import os\nopen_ones = []\nfor n in range(3, 64):\n"
        "  try: os.fstat(n); open_ones.append(n)\n  except OSError: pass\nprint(open_ones)",
        "[]\n",
    ),
}

LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)
KEYCTL, ADD_KEY, REQUEST_KEY = ((250, 219)[COLUMN], (248, 217)[COLUMN], (249, 218)[COLUMN])
CALLS = {  # each would give 0 or more where it is let through
    "own keyring": f"libc.syscall({KEYCTL}, 0, -3, 1)",
    "new keyring": f"libc.syscall({KEYCTL}, 1, 0)",
    "key found": f"libc.syscall({REQUEST_KEY}, b'user', arguments['key'].encode(), 0, 0)",
    "key added": f"libc.syscall({ADD_KEY}, b'user', b'alttrain-spy', b'x', 1, -3)",
    "shared memory": "libc.shmget(0, ctypes.c_size_t(1 << 20), 0o1600)",
    "semaphores": "libc.semget(0, 1, 0o1600)",
    "message queue": "libc.msgget(0, 0o1600)",
    "posix message queue": "libc.mq_open(b'/q', 0o102, 0o600, None)",
    "memfd": "libc.memfd_create(b'm', 0)",
    "memfd by its other number": "libc.syscall(0x40000000 | 319, b'm', 0)",
    "secret memory": "libc.syscall(447, 0)",
    "pages in a pipe": (
        "libc.vmsplice(os.pipe()[1], (ctypes.c_size_t * 2)(ctypes.addressof(ctypes.create_string_buffer(9)), 9), "
        "ctypes.c_ulong(1), 0)"
    ),
    "vsock": "libc.socket(40, 1, 0)",
    "netlink": "libc.socket(16, 3, 0)",
    "larger buffers of sockets": (
        "(lambda pair: libc.socketpair(1, 1, 0, pair) or "
        "libc.setsockopt(pair[0], 1, 7, ctypes.byref(ctypes.c_int(1 << 24)), 4))((ctypes.c_int * 2)())"
    ),
    "raw packets": "libc.socket(17, 3, 0)",
    "internet": "libc.socket(2, 1, 0)",
    "kernel crypto": "libc.socket(38, 5, 0)",
    "pair of no unix sockets": "libc.socketpair(30, 1, 0, (ctypes.c_int * 2)())",
    "io_uring": "libc.syscall(425, 1, ctypes.create_string_buffer(120))",
    "bpf": f"libc.syscall({(321, 280)[COLUMN]}, 0, (ctypes.c_uint32 * 18)(2, 4, 4, 1), 72)",
    "perf": f"libc.syscall({(298, 241)[COLUMN]}, (ctypes.c_uint32 * 32)(1, 128, 1), 0, -1, -1, 0)",
    "userfaultfd": f"libc.syscall({(323, 282)[COLUMN]}, 1)",
    "tracing itself": "libc.ptrace(0, 0, 0, 0)",
    "tracing the parent": "libc.ptrace(16, os.getppid(), 0, 0)",
    "memory of the parent": (
        "libc.process_vm_readv(os.getppid(), (ctypes.c_size_t * 2)(), ctypes.c_ulong(1), (ctypes.c_size_t * 2)(), "
        "ctypes.c_ulong(1), ctypes.c_ulong(0))"
    ),
    "descriptor of the parent": "libc.syscall(438, libc.syscall(434, os.getpid(), 0), 0, 0)",
    "new network": "libc.unshare(0x40000000)",
    "new mounts": "libc.unshare(0x20000)",
    "clone into a user namespace": f"libc.syscall({(56, 220)[COLUMN]}, 0x10000011, 0, 0, 0, 0)",
    "clone3 into a user namespace": "libc.syscall(435, (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17), 88)",
    "larger /tmp": "libc.mount(b't', b'/tmp', b'tmpfs', ctypes.c_ulong(32), b'size=1g')",
    "another root": "libc.chroot(b'/tmp')",
    "device file": "libc.mknod(b'/tmp/sda', 0o60600, ctypes.c_ulong(0x800))",
    "watches": "libc.inotify_init1(0)",
    "hard link to a library": "os.link(os.__file__, '/tmp/link') or 0",
    "setuid": "libc.seteuid(0) if os.geteuid() else 0",
    "old rights": "libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(1 << 21, 1 << 21))",
}
CONTAINED |= {
    name: (f"{LIBC}try: got = {call}\nexcept OSError: got = -1\nprint('held' if got < 0 else ('out', got))", "held\n")
    for name, call in CALLS.items()
}
CONTAINED |= {
    "inodes": (
        "import os\nn = 0\ntry:\n  while n < 100_000: os.close(os.open(f'/tmp/{n}', os.O_CREAT)); n += 1\n"
        "except OSError: pass\nprint('held' if n < 5000 else n)",
        "held\n",
    ),
    "folders in folders": (
        "import os\nn = 0\ntry:\n  while n < 100_000: os.mkdir('d'); os.chdir('d'); n += 1\nexcept OSError: pass\n"
        "print('held' if n < 5000 else n)",
        "held\n",
    ),
    "hard links": (
        "import os\nopen('/tmp/f', 'w')\nn = 0\ntry:\n  while n < 30_000: os.link('/tmp/f', f'/tmp/{n}'); n += 1\n"
        "except OSError: pass\nprint('held' if n < 5000 else n)",
        "held\n",
    ),
    "timers": (
        f"{LIBC}timer, n = ctypes.c_void_p(), 0\n"
        "while n < 10_000 and libc.timer_create(1, None, ctypes.byref(timer)) == 0: n += 1\n"
        "print('held' if n < 100 else n)",
        "held\n",
    ),
    "rights of a setuid program": (f"{LIBC}print(libc.prctl(39, 0, 0, 0, 0))", "1\n"),  # PR_GET_NO_NEW_PRIVS
    "every process": (
        "import os, signal\ntry: os.kill(-1, signal.SIGKILL)\nexcept OSError: pass\nprint('alone')",
        "alone\n",
    ),
    "raw disk": (
        "import os\nheld = 0\nfor name in 'mem kmem kvm sda vda fuse net/tun vsock vhost-vsock'.split():\n"
        "  try: os.open('/dev/' + name, os.O_RDWR)\n  except OSError: held += 1\nprint(held)",
        "9\n",
    ),
}


@pytest.mark.parametrize("attack", CONTAINED)
def test_attack_is_contained(attack: str, box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTTRAIN_TEST_TOKEN", "secret")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    name = f"\0alttrain-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(name)
        unix.listen()
        targets = {"port": server.getsockname()[1], "unix": name, "secret": str(secret), "pid": os.getpid()}
        targets |= {"key": f"alttrain-{os.getpid()}"}
        system = ctypes.CDLL(None).syscall
        key = system(ADD_KEY, b"user", f"alttrain-{os.getpid()}".encode(), b"secret", 6, -3)  # where there are keys
        program, expected = CONTAINED[attack]
        outcome = box.run(program, {**targets, "home": str(Path.home())})
        system(KEYCTL, 3, key)  # revoked
    assert outcome.output == expected
    assert list(tmp_path.iterdir()) == [secret]


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal, time\nfor s in (1, 2, 3, 14, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)",
        "import os, time\nos.close(1); os.close(2)\ntime.sleep(60)",
    ],
    ids=["loop", "sleep", "ignored signals", "closed output"],
)
def test_program_ends_at_its_time(program: str, box: Sandbox) -> None:
    start = time.monotonic()
    outcome = Sandbox(seconds=1).run(program)
    assert (outcome.ended, outcome.output) == ("timeout", "")
    assert time.monotonic() - start < 5


def test_processor_time_is_limited_for_each_process(box: Sandbox) -> None:
    program = "import os, resource\nprint(resource.getrlimit(resource.RLIMIT_CPU))"
    assert Sandbox(seconds=2).run(program).output == "(2, 2)\n"


def test_flood_of_output_is_cut(box: Sandbox) -> None:
    start = time.monotonic()
    outcome = box.run("while True: print('x' * 1000)")
    assert outcome.ended == "flood"
    assert len(outcome.output) == 4096
    assert time.monotonic() - start < 5


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            os.write(arguments["fd"], b"x")
            time.sleep(0.02)
    os._exit(0)
time.sleep(0.3)
{end}
"""


@pytest.mark.parametrize("end", ["pass", "os._exit(0)", "time.sleep(60)"])
def test_daemon_does_not_survive_its_program(end: str, box: Sandbox) -> None:
    """It writes to a pipe of ours as long as it lives: the pipe reaches its end soon after the program's."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        Sandbox(seconds=1).run(DAEMON.format(end=end), {"fd": write}, (write,))
        os.close(write)
        start = time.monotonic()
        written = reader.read()
    assert written.startswith(b"x")
    assert time.monotonic() - start < 2


def test_ordinary_program(box: Sandbox) -> None:
    program = (
        "import math, random, re, json, collections, hashlib\nopen('/tmp/x', 'w').write('2')\nprint(arguments['n'])"
    )
    assert box.run(program, {"n": "ü"}) == Execution("exit", 0, "ü\n")
    failed = box.run("raise SystemExit(3)")
    assert (failed.ended, failed.code) == ("exit", 3)
    assert "ZeroDivisionError" in box.run("1/0").output


@pytest.mark.skipif(platform.machine() != "x86_64", reason="32-bit calls are of x86_64")
def test_calls_of_another_architecture_end_the_program(box: Sandbox) -> None:
    """`int 0x80` reaches the 32-bit calls, whose numbers are others: 356 is memfd_create, 20 getpid."""
    program = (
        "import ctypes, mmap\ncode = mmap.mmap(-1, 4096, prot=7)\ncode.write(bytes.fromhex('b814000000cd80c3'))\n"
        "at = ctypes.addressof(ctypes.c_char.from_buffer(code))\nprint(ctypes.CFUNCTYPE(ctypes.c_int)(at)())"
    )
    outcome = box.run(program)
    assert outcome.output == ""
    assert outcome.code != 0


def test_what_ordinary_programs_use_is_allowed(box: Sandbox) -> None:
    """Threads, child processes, an event loop, temporary files and shared maps."""
    program = (
        "import asyncio, mmap, os, tempfile, threading\nasync def main(): await asyncio.sleep(0)\nasyncio.run(main())\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "with tempfile.NamedTemporaryFile() as file: file.write(b'x')\nmmap.mmap(-1, 1 << 20)\n"
        "if os.fork() == 0: os._exit(7)\nprint(os.waitstatus_to_exitcode(os.wait()[1]), open('/dev/null'))"
    )
    assert box.run(program).output.startswith("thread\n7 <_io")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_is_a_program_whose_jumps_stay_inside(machine: str) -> None:
    """Every path through it ends in a return, and it holds each table's number of `keyctl`."""
    steps = list(struct.iter_unpack("=HBBI", seccomp_filter(machine) or b""))
    reached, ahead = set(), [0]
    while ahead:
        at = ahead.pop()
        if at in reached:
            continue
        reached.add(at)
        code, true, false, _ = steps[at]
        ahead += [] if code == 0x06 else [at + 1 + true, at + 1 + false]
    assert reached == set(range(len(steps)))
    assert {"x86_64": 250, "aarch64": 219}[machine] in {step[3] for step in steps if step[0] == 0x15}


def test_machine_without_a_filter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/bwrap")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "no filter of system calls for riscv64" in bubblewrap_fault.__wrapped__()


# --- without bubblewrap ---


def test_missing_bubblewrap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "bubblewrap_fault", lambda: "bubblewrap (bwrap) is not installed")
    for call in (lambda: Sandbox().run("print(1)"), lambda: list(HumanEval().judge([], DESK))):
        with pytest.raises(OSError, match=r"not installed; install bubblewrap .*allow_unsandboxed=true") as error:
            call()
        assert "\n" not in str(error.value)


def test_unsandboxed_when_allowed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Still limited and in a folder of its own, and it says so."""
    monkeypatch.setattr(sandbox_module, "bubblewrap_fault", lambda: "bubblewrap (bwrap) is not installed")
    sandbox_module._warn_bare.cache_clear()
    bare = Sandbox(seconds=10, memory_mib=256, allow_unsandboxed=True)
    program = (
        "import os, resource\nprint(os.getcwd())\nprint(*resource.getrlimit(resource.RLIMIT_NPROC))\n"
        "try: bytearray(1 << 30)\nexcept MemoryError: print('held', list(os.environ))"
    )
    folder, processes, held = bare.run(program).output.splitlines()
    assert held == "held ['LC_CTYPE']"
    assert processes == "{} {}".format(*resource.getrlimit(resource.RLIMIT_NPROC))  # of the user, and not of a program
    assert not Path(folder).exists()
    assert "WITHOUT a sandbox" in caplog.text
    start = time.monotonic()
    assert Sandbox(seconds=1, allow_unsandboxed=True).run("import time; time.sleep(60)").ended == "timeout"
    assert time.monotonic() - start < 5


def test_probe_says_why_bubblewrap_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'no namespaces' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    assert bubblewrap_fault.__wrapped__() == "bubblewrap (bwrap) cannot run here: no namespaces"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert bubblewrap_fault.__wrapped__() == "bubblewrap (bwrap) is not installed"


# --- HumanEval ---

PROMPT = 'def double(n):\n    """Twice n."""\n'
TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate([1]) == [1, 1]\n"
CHEATS = {
    "exit": "import sys\nsys.exit(0)",
    "hard exit": "import os\nos._exit(0)",
    "exit when called": "def double(n):\n    import os\n    os._exit(0)",
    "stop when called": "def double(n):\n    raise SystemExit(0)",
    "patched builtins": (
        "import builtins as b\nb.check = lambda c: None\nb.AssertionError = ValueError\ndef double(n): return 0"
    ),
    "own check": "def check(candidate): pass\ndef double(n): return 0",
    "equal to all": "class Any:\n    def __eq__(self, o): return True\ndef double(n): return Any()",
    "list equal to all": "class Any(list):\n    def __eq__(self, o): return True\ndef double(n): return Any()",
    "printed verdict": "import os\ndef double(n):\n    for _ in range(9): os.write(1, b'\\n\"\"\\n')",
    "verdict on the pipe": (
        "import os\nfor n in range(3, 64):\n    try: os.write(n, b'\\n\"\"\\n')\n    except OSError: pass\n"
        "def double(n): return 0"
    ),
    "frames": (
        "import sys\ndef double(n):\n    frame = sys._getframe()\n    while frame:\n"
        "        frame.f_globals['check'] = lambda c: None\n        frame = frame.f_back\n    return 0"
    ),
    "tests in memory": (
        "import gc\ndef double(n):\n    near = gc.get_referents(*gc.get_objects())\n"
        "    texts = [text for text in [*near, *gc.get_referents(*near)] if isinstance(text, str)]\n"
        "    return n * 2 if any('('.join(('candidate', '2)')) in text for text in texts) else 0"
    ),
    "endless answer": "def double(n): return 'x' * (1 << 23)",
    "no function": "x = 1",
    "syntax error": "def double(n:",
    "loop": "def double(n):\n    while True: pass",
}


def row(answer: str, prompt: str = PROMPT, test: str = TEST, entry_point: str = "double") -> Generation:
    """A generation whose gold is a problem's prompt, test and entry point."""
    gold = (prompt, test, entry_point)
    return Generation("h", prompt, "benign", "", gold, answer, "", answer, True, "stop", 1, 1)


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheat_does_not_pass(cheat: str, box: Sandbox) -> None:
    judgement = HumanEval(Sandbox(seconds=2))(row(f"```python\n{CHEATS[cheat]}\n```"))
    assert judgement.verdict is False
    assert judgement.evidence not in ("", "passed")
    assert judgement.error == ""


@pytest.mark.parametrize(
    "answer",
    [
        "    return n * 2",
        "```python\ndef double(n):\n    print('working', flush=True)\n    return n + n\n```",
        "```python\nimport os\nos.close(1)\ndef double(n): return n * 2\nif __name__ == '__main__':\n    1 / 0\n```",
    ],
)
def test_right_program_passes(answer: str, box: Sandbox) -> None:
    assert HumanEval(box)(row(answer)) == Judgement("h", "humaneval", True, "passed")


@pytest.mark.parametrize(
    ("answer", "evidence"),
    [
        ("    return n", "AssertionError: "),
        ("    return n / 0", "RuntimeError: the program raised ZeroDivisionError: division by zero"),
        ("    return map(str, [n])", "RuntimeError: the program raised TypeError: a map is not a plain value"),
        ("    import os; os._exit(1)", "EOFError: the program ended, or gave too long an answer"),
        ("    while True: pass", "no end within 1 s"),
        ("", "no answer"),
    ],
)
def test_failure_is_named(answer: str, evidence: str, box: Sandbox) -> None:
    assert HumanEval(Sandbox(seconds=1))(row(answer)) == Judgement("h", "humaneval", False, evidence)


def test_failure_is_named_that_shows_all_it_compares(box: Sandbox) -> None:
    shown = "def check(candidate):\n    assert candidate(2) == 4, str([candidate(2)] * 100_000)"
    assert HumanEval(box)(row("    return n", test=shown)).evidence.startswith("AssertionError: [2, 2, ")


def test_row_without_its_three_texts_is_undecided() -> None:
    short = Generation("h", "?", "benign", "", ("x",), "a", "", "a", True, "stop", 1, 1)
    error = "the row has 1 gold texts; expected prompt, test and entry point"
    assert HumanEval()(short) == Judgement("h", "humaneval", None, error=error)


@pytest.mark.parametrize(
    ("prompt", "test", "fault"),
    [
        ("def double(n:\n", TEST, "SyntaxError: "),
        ("import no_such_module\n" + PROMPT, TEST, "ModuleNotFoundError: "),
        ("raise SystemExit(0)\n" + PROMPT, TEST, "SystemExit: 0"),
        (PROMPT, "def check(candidate):\nassert candidate(2) == 4", "IndentationError: "),
        (PROMPT, "def check(candidate):\n    assert candidate(2) == 4\n  assert True", "IndentationError: "),
        (PROMPT, "assert True", "KeyError: 'check'"),
        (PROMPT, "", "KeyError: 'check'"),
        (PROMPT, "from helpers_of_nobody import *\n" + TEST, "ModuleNotFoundError: "),
        (PROMPT, "def check(candidate):\n    assert four == candidate(2)", "NameError: name 'four' is not defined"),
        (PROMPT, "def check(candidate):\n    raise SystemExit(0)", "SystemExit: 0"),
        (PROMPT, "def check(candidate):\n    import numpy_of_nobody", "ModuleNotFoundError: "),
    ],
)
@pytest.mark.parametrize("answer", ["    return n * 2", "    return n"])
def test_benchmark_that_does_not_run_counts_against_nobody(
    answer: str, prompt: str, test: str, fault: str, box: Sandbox
) -> None:
    judgement = HumanEval(box)(row(answer, prompt, test))
    assert judgement.verdict is None
    assert judgement.error.startswith(f"the benchmark's own prompt or test does not run: {fault}")


@pytest.mark.parametrize(("quota", "count"), [("max 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("", 2)])
def test_a_job_runs_as_many_programs_as_it_has_processors(
    quota: str, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A cluster's job, or a container, may use a few of a machine's; more programs than these would run out of time."""
    counts: list[int] = []
    pool = humaneval.ThreadPoolExecutor
    monkeypatch.setattr(humaneval, "ThreadPoolExecutor", lambda count: counts.append(count) or pool(count))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    monkeypatch.setattr(HumanEval, "check", lambda *_: None)
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(humaneval, "QUOTA", tmp_path / "cpu.max")
    assert len([*HumanEval().judge([row("")], DESK), *HumanEval(workers=7).judge([row("")], DESK)]) == 2
    assert counts == [count, 7]


@pytest.mark.parametrize("error", ["NameError('x')", "ImportError('x')", "SystemExit(0)"])
def test_errors_of_the_function_are_its_own(error: str, box: Sandbox) -> None:
    judgement = HumanEval(box)(row(f"    raise {error}"))
    assert (judgement.verdict, judgement.error) == (False, "")


def test_sandbox_that_fails_counts_against_nobody(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has been found to work: a machine can run out of what a sandbox needs."""
    monkeypatch.setattr(sandbox_module, "_wrapped", lambda packages: ["/bin/sh", "-c", "echo no more >&2; exit 1"])
    with pytest.raises(OSError, match=r"a sandbox did not start \(exit, code 1\): no more"):
        HumanEval(box)(row("    return n * 2"))


VALUES: list[Any] = [
    None,
    True,
    0,
    -(10**5000),
    0.1,
    float("inf"),
    1j,
    "ü\n\0",
    b"\xff",
    [],
    (1, [2]),
    {3},
    frozenset(),
]
VALUES += [{(1, 2): {"a": None}}, "\ud800", [0.5, -3, "a", None, True], [1, 10**5000], (-(10**5000), 0.1), [[1], 2]]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_cross_whole(value: Any) -> None:
    crossed = decode(json.loads(json.dumps(encode(value))))
    assert crossed == value
    assert type(crossed) is type(value)


def test_the_nan_of_two_answers_is_not_one_object() -> None:
    """A test that compares two answers would find [nan] equal to itself: lists compare the same object as equal."""
    one, other = (decode(_loads(json.dumps(encode([float("nan")])))) for _ in range(2))
    assert one != other
    assert math.isnan(one[0])


@pytest.mark.parametrize("value", [[1], {"object": 1}, {"int": "0x1", "bytes": ""}, {"str": "text"}, {}])
def test_only_encoded_values_are_read(value: Any) -> None:
    with pytest.raises(ValueError, match=r"not an encoded value|unknown kind"):
        decode(value)


def test_canonical_solutions_of_humaneval(box: Sandbox) -> None:
    """All 164 pass, and their problems' unfinished functions do not: one parallel call each way."""
    path = DATA / "humaneval" / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no developer data: {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines]
    solved = [row(p["canonical_solution"], p["prompt"], p["test"], p["entry_point"]) for p in problems]
    judgements = list(HumanEval().judge(solved, DESK))
    assert len(judgements) == 164
    assert [judgement for judgement in judgements if judgement.verdict is not True] == []
    unsolved = [row("    return None", p["prompt"], p["test"], p["entry_point"]) for p in problems[::8]]
    assert [judgement for judgement in HumanEval().judge(unsolved, DESK) if judgement.verdict is not False] == []


# --- HumanEval+ and MBPP+: tests that import numpy, in the form of EvalPlus's files ---

PLUS = Sandbox(seconds=30, memory_mib=4096)
COMPARED = """import numpy as np
from math import inf

def assertion(out, exp, atol):
    floats = [exp] if isinstance(exp, float) else exp if isinstance(exp, (list, tuple)) else [0]
    atol = atol or 1e-6 * all(isinstance(number, float) for number in floats)
    same = out == exp
    assert same or (atol and np.allclose(out, exp, rtol=1e-07, atol=atol))

"""
LOOP = "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    "
EQUAL_SETS = "def assertion(out, exp, atol):\n    assert set(out) == set(exp)\n"
NOT_NONE = "import re\ndef assertion(out, exp, atol):\n    assert exp == (out is not None)\n"


def plus_test(inputs: str, results: str) -> str:
    """A test of HumanEval+: the arguments of each call, and its result."""
    lines = (f"inputs = {inputs}", f"results = {results}", f"{LOOP}    assertion(candidate(*inp), exp, 0)")
    return f"{COMPARED}def check(candidate):\n" + "".join(f"    {line}\n" for line in lines)


def plus_row(answer: str, inputs: str, results: str, solution: str = "    return n * 2\n") -> Generation:
    gold = (PROMPT, plus_test(inputs, results), "double", solution)
    return Generation("h", PROMPT, "benign", "", gold, answer, "", answer, True, "stop", 1, 1)


def mbpp_row(answer: str, inputs: str, results: str, solution: str, compared: str = COMPARED) -> Generation:
    test = f"{compared}\ninputs = {inputs}\nresults = {results}\n{LOOP}assertion(double(*inp), exp, 0)\n"
    gold = (test, solution)
    return Generation("h", "Double.", "benign", "", gold, answer, "", answer, True, "stop", 1, 1)


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("    return n * 2", True),
        ("    return n + n + 1e-9 if isinstance(n, float) else n + n", True),
        ("    return n + n + 1e-3 if isinstance(n, float) else n + n", False),
        ("    return n", False),
        ("    return None", False),
        ("    import numpy\n    return n * 2", False),  # only the tests have it
    ],
)
def test_humaneval_plus_compares_numbers_with_numpy(answer: str, passes: bool, box: Sandbox) -> None:
    judgement = HumanEvalPlus(PLUS)(plus_row(answer, "[[2], [0.5], ['a'], [10**9]]", "[4, 1.0, 'aa', 2 * 10**9]"))
    assert (judgement.judge, judgement.verdict, judgement.error) == ("humaneval_plus", passes, "")


@pytest.mark.parametrize("answer", ["    return n * 2", "    return n", "    raise ValueError"])
def test_a_test_that_its_own_solution_fails_counts_against_nobody(answer: str, box: Sandbox) -> None:
    """As HumanEval/32's, which unpacks a number."""
    given = plus_row(answer, "[[2]]", "[4]")
    broken = given.gold[1].replace("candidate(*inp)", "*candidate(*inp)")
    judgement = HumanEvalPlus(PLUS)(Generation(**{**vars(given), "gold": (PROMPT, broken, *given.gold[2:])}))
    assert judgement.verdict is None
    assert judgement.error.startswith("the benchmark's own solution does not pass its test here: ")


def test_tests_without_their_package_count_against_nobody(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HumanEvalPlus, "packages", ())
    judgement = HumanEvalPlus(PLUS)(plus_row("    return n * 2", "[[2]]", "[4]"))
    assert judgement.verdict is None
    assert judgement.error.endswith("does not run: ModuleNotFoundError: No module named 'numpy'")


def test_package_that_cannot_be_imported_is_told_before(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    HumanEvalPlus(PLUS).check("judge", lambda *_: "")
    monkeypatch.setattr(HumanEvalPlus, "packages", ("no_such_package",))
    with pytest.raises(OSError, match="no_such_package is not installed; the tests of this benchmark import it"):
        HumanEvalPlus(PLUS).check("judge", lambda *_: "")
    monkeypatch.setattr(HumanEvalPlus, "packages", ("pydantic",))  # its dependencies stay outside
    with pytest.raises(OSError, match="judge humaneval_plus: its tests import pydantic, which fails in the sandbox: "):
        HumanEvalPlus(PLUS).check("judge", lambda *_: "")


@pytest.mark.slow
def test_answers_of_a_million_numbers_and_of_many_digits(box: Sandbox) -> None:
    """HumanEval+ has such calls: lists of a million numbers, and integers that Python refuses to print."""
    digits = "7" * 9000
    inputs, results = f"[[list(range(10**6))], [0.5], [{digits}]]", f"[list(range(10**6)) * 2, 1.0, 2 * {digits}]"
    assert HumanEvalPlus(PLUS)(plus_row("    return n * 2", inputs, results)).verdict is True
    assert HumanEvalPlus(PLUS)(plus_row("    return n + n[:-1] if isinstance(n, list) else n * 2", inputs, results)
    ).verdict is False  # fmt: skip


SAME_ITEMS = "def double(a, b):\n    return tuple(set(a) & set(b))"
FINDS = "import re\ndef double(text):\n    return re.search('a+', text)"


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("```python\ndef double(n):\n    return n + n\n```", True),
        ("def double(n):\n    return n + n", True),
        ("```python\ndouble = lambda n: n * 2\n```", True),
        ("```python\ndef double(n):\n    return n\n```", False),
        ("```python\ndef twice(n):\n    return n * 2\n```", False),
        ("def double(n:", False),
        ("I do not know.", False),
    ],
)
def test_mbpp_plus_calls_the_function_by_its_name(answer: str, passes: bool, box: Sandbox) -> None:
    judgement = MBPPPlus(PLUS)(mbpp_row(answer, "[[2], [0.5], [inf]]", "[4, 1.0, inf]", "def double(n): return n * 2"))
    assert (judgement.judge, judgement.verdict, judgement.error) == ("mbpp_plus", passes, "")


@pytest.mark.parametrize(
    ("answer", "compared", "inputs", "results", "solution", "passes"),
    [
        (SAME_ITEMS.replace("tuple", "list"), EQUAL_SETS, "[[(1, 2), (2, 3)]]", "[(2,)]", SAME_ITEMS, True),
        (SAME_ITEMS.replace("&", "|"), EQUAL_SETS, "[[(1, 2), (2, 3)]]", "[(2,)]", SAME_ITEMS, False),
        (FINDS, NOT_NONE, "[['ba'], ['b']]", "[True, False]", FINDS, True),
        (FINDS.replace("a+", "b"), NOT_NONE, "[['ba'], ['b']]", "[True, False]", FINDS, False),
        (FINDS, COMPARED, "[['ba']]", "['a']", "def double(text): return 'a'", False),
        ("def double(n): return iter([n])", COMPARED, "[[1.0]]", "[[1.0]]", "def double(n): return [n]", False),
    ],
)
def test_mbpp_plus_compares_as_each_test_says(
    answer: str, compared: str, inputs: str, results: str, solution: str, passes: bool, box: Sandbox
) -> None:
    """Some tests compare sets, and some only ask for an answer that is not None, such as a match."""
    judgement = MBPPPlus(PLUS)(mbpp_row(f"```python\n{answer}\n```", inputs, results, solution, compared))
    assert (judgement.verdict, judgement.error) == (passes, "")


@pytest.mark.slow
@pytest.mark.parametrize("cheat", CHEATS)
def test_cheat_does_not_pass_mbpp_plus(cheat: str, box: Sandbox) -> None:
    answer = f"```python\n{CHEATS[cheat].replace('check', 'assertion')}\n```"
    given = mbpp_row(answer, "[[2], [[1]], [0.5]]", "[4, [1, 1], 1.0]", "def double(n): return n * 2")
    judgement = MBPPPlus(Sandbox(seconds=5, memory_mib=4096))(given)
    assert (judgement.verdict, judgement.error) == (False, "")


@pytest.mark.parametrize(
    ("grader", "gold", "error"),
    [
        (HumanEvalPlus(), ("x",), "the row has 1 gold texts; expected prompt, test, entry point and own solution"),
        (MBPPPlus(), ("x", "y", "z"), "the row has 3 gold texts; expected test and own solution"),
        (MBPPPlus(), ("x", "y"), "the row's test calls no function; expected assertion(NAME(*inp), ...)"),
    ],
)
def test_row_of_another_form_is_undecided(grader: Any, gold: tuple[str, ...], error: str) -> None:
    given = Generation("h", "?", "benign", "", gold, "a", "", "a", True, "stop", 1, 1)
    assert grader(given) == Judgement("h", grader.name, None, error=error)


@pytest.mark.slow
def test_canonical_solutions_of_humaneval_under_plus(box: Sandbox) -> None:
    """Each eighth passes with numpy beside its tests, and its unfinished function does not."""
    path = DATA / "humaneval" / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no developer data: {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines][::8]
    for answers, passes in ([p["canonical_solution"] for p in problems], True), (["    return None"] * 21, False):
        golds = [
            (p["prompt"], f"import numpy as np\n{p['test']}", p["entry_point"], p["canonical_solution"])
            for p in problems
        ]
        rows = [
            Generation(p["task_id"], p["prompt"], "benign", "", gold, answer, "", answer, True, "stop", 1, 1)
            for p, gold, answer in zip(problems, golds, answers, strict=True)
        ]
        verdicts = [(judgement.verdict, judgement.error) for judgement in HumanEvalPlus(PLUS).judge(rows, DESK)]
        assert verdicts == [(passes, "")] * 21
