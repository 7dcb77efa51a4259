"""The machine, as far as it can be known without torch, which is imported only where a GPU is there to be asked."""

import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """Where a run would compute, and the bytes free there; None where the system does not say."""

    name: str
    free: int | None


def look(accelerator: str, memory_gib: float | None = None) -> Device:
    """The device that `trainer.accelerator` (auto, cpu or gpu) comes to here, or the GPU that is planned for.

    Raises ValueError where a GPU is asked for, none is here, and `memory_gib` does not say what it will be like.
    """
    if accelerator != "cpu" and has_gpu_driver():
        import torch

        if torch.cuda.is_available():
            free = torch.cuda.mem_get_info()[0]
            return Device(
                torch.cuda.get_device_name(), free if memory_gib is None else min(free, int(memory_gib * GIB))
            )
    if accelerator != "cpu" and memory_gib is not None:
        return Device(f"a GPU of {memory_gib:g} GiB", int(memory_gib * GIB))
    if accelerator == "gpu":
        raise ValueError("trainer.accelerator=gpu, but there is no GPU that torch sees; set it to auto or cpu")
    return Device("cpu", free_system_memory())


GIB = 1 << 30


def has_gpu_driver() -> bool:
    """Whether a driver for NVIDIA's or AMD's GPUs is there. A GPU may still be absent or hidden."""
    devices = ("/dev/nvidiactl", "/dev/kfd")
    return any(Path(device).exists() for device in devices) or shutil.which("nvidia-smi") is not None


def free_system_memory(root: Path = Path("/")) -> int | None:
    """Bytes this process may still take: what Linux calls available, and no more than its control group has left."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    except (OSError, StopIteration):
        return _physical_memory()
    group = root / "sys/fs/cgroup"
    try:
        limit = int((group / "memory.max").read_text())  # "max" is no limit
        used = int((group / "memory.current").read_text())
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(cached.get("inactive_file", 0)))
    except (OSError, ValueError):
        return free


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices natively (AVX512-BF16, AMX, Arm's bf16)."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16", " bf16 "))


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next tensor, where its allocator is in use.

    It would give tensors of a few megabytes back to the system and take fresh pages for the next, which cost a training
    step on the CPU a tenth of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 64 << 20)):
        mallopt(parameter, value)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Names of malloc.h; 32 MiB is the most the last may be."""


def give_back_freed_memory() -> None:
    """Have glibc give back what it kept and cannot use again: between batches of other shapes it would grow."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


BITSANDBYTES_ON_CPU = (0, 50)
"""The first bitsandbytes that does on a CPU all that is asked of it here: nf4, int8 and 8-bit AdamW (tried one by one;
nf4 alone works from 0.46.1 on)."""


def check_kernels(
    quantization: str, attention: str, cuda: bool, optimizer: str = "adamw", owner: str = "backbone"
) -> None:
    """Raise ValueError where the config wants a package that is not installed or too old, or an absent GPU.

    `owner` is the part of the config that asks for the quantisation.
    """
    shrunk = ((f"{owner}.quantization", quantization, "none"), ("training.optimizer", optimizer, "adamw"))
    for key, value, without in shrunk:
        if value == without:
            continue
        if importlib.util.find_spec("bitsandbytes") is None:
            install = "pip install 'alttrain[quantization]'"
            raise ValueError(f"{key}={value} needs the package bitsandbytes: {install}, or set {key}={without}")
        version = importlib.metadata.version("bitsandbytes")
        if not cuda and tuple(int(part) for part in version.split(".")[:2]) < BITSANDBYTES_ON_CPU:
            needed = ".".join(map(str, BITSANDBYTES_ON_CPU))
            raise ValueError(
                f"{key}={value} needs a CUDA GPU, and torch sees none, or bitsandbytes {needed}, and {version} is "
                f"installed; set {key}={without}"
            )
    if attention == "flash_attention_2":
        if not cuda:
            raise ValueError(
                f"backbone.attention={attention} needs a CUDA GPU, and torch sees none; set backbone.attention=packed"
            )
        if importlib.util.find_spec("flash_attn") is None:
            raise ValueError(
                f"backbone.attention={attention} needs the package flash_attn: pip install flash-attn, or set "
                "backbone.attention=packed"
            )
