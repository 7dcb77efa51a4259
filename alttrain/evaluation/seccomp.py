"""A filter of system calls (seccomp) for programs in the sandbox: what they have no use for is refused with EPERM.

What is refused either reaches past the namespaces (the session keyring, vsock and other sockets, new namespaces and
mounts, other processes' memory), holds memory that no limit counts (shared memory, message queues, memfds, pages given
to pipes, larger buffers of sockets), or is a part of the kernel that attacks often begin with (io_uring, bpf, perf,
userfaultfd). The rest is allowed. Numbers are the kernel's, in asm/unistd_64.h for x86_64 and asm-generic/unistd.h for
aarch64.
"""

import struct
from collections.abc import Iterator

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""As linux/audit.h names them, by `platform.machine()`."""
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
"""Each call with its number on x86_64 and on aarch64."""
_CLONE, _CLONE3, _SOCKETPAIR = (56, 220), (435, 435), (53, 199)
_NAMESPACES = 0x7E020000
"""The flags of `clone` that ask for a new namespace."""
_OTHER_ABI = 0x40000000
"""From here on are the numbers of x32, a second set of the same calls on x86_64."""
_AF_UNIX = 1

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in struct seccomp_data."""


def seccomp_filter(machine: str) -> bytes | None:
    """The filter as an array of struct sock_filter; None for a machine whose calls are not in the tables."""
    if machine not in _ARCHITECTURES:
        return None
    return b"".join(struct.pack("=HBBI", *step) for step in _steps(_ARCHITECTURES[machine], machine == "aarch64"))


def _steps(architecture: int, column: int) -> Iterator[tuple[int, int, int, int]]:
    """(code, steps to skip where true, where false, operand) of each step."""
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER
    yield _AT_LEAST, 0, 1, _OTHER_ABI
    yield _RETURN, 0, 0, _EPERM
    for call in _REFUSED.split(","):
        yield _EQUAL, 0, 1, int(call.split()[1 + column])
        yield _RETURN, 0, 0, _EPERM
    yield _EQUAL, 0, 1, _CLONE3[column]  # its flags are in memory, where no filter can look; libc falls back to clone
    yield _RETURN, 0, 0, _ENOSYS
    yield _EQUAL, 0, 4, _CLONE[column]
    yield _LOAD, 0, 0, _FIRST_ARGUMENT
    yield _ANY_BIT, 0, 1, _NAMESPACES
    yield _RETURN, 0, 0, _EPERM
    yield _RETURN, 0, 0, _ALLOW
    yield _EQUAL, 0, 3, _SOCKETPAIR[column]
    yield _LOAD, 0, 0, _FIRST_ARGUMENT
    yield _EQUAL, 1, 0, _AF_UNIX
    yield _RETURN, 0, 0, _EPERM
    yield _RETURN, 0, 0, _ALLOW
