"""What this machine has: GPU, free memory, bfloat16, packages. Imports torch only if there is a GPU driver."""

import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
BITSANDBYTES_ON_CPU = (0, 50)  # first version whose nf4 and 8-bit AdamW both work on a CPU; each was tried


@dataclass(frozen=True)
class Device:
    """The device that a run computes on, and its free memory in bytes; None if the system does not report it."""

    name: str
    free: int | None


def detect_device(accelerator: str, memory_gib: float | None = None) -> Device:
    """Return the device that `trainer.accelerator` (auto, cpu or gpu) selects, or a planned GPU of `memory_gib`.

    Raises ValueError if a GPU is requested, but there is none and none is planned.
    """
    if accelerator != "cpu" and has_gpu_driver():
        import torch

        if torch.cuda.is_available():
            free = torch.cuda.mem_get_info()[0]
            planned = free if memory_gib is None else int(memory_gib * GIB)
            return Device(torch.cuda.get_device_name(), min(free, planned))
    if accelerator != "cpu" and memory_gib is not None:
        return Device(f"a GPU of {memory_gib:g} GiB", int(memory_gib * GIB))
    if accelerator == "gpu":
        raise ValueError("trainer.accelerator=gpu, but there is no GPU that torch sees; set it to auto or cpu")
    return Device("cpu", free_system_memory())


def has_gpu_driver() -> bool:
    """Return whether a driver for NVIDIA or AMD GPUs is present. The GPU itself may be absent or hidden."""
    return any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd"))) or shutil.which("nvidia-smi") is not None


def gpu_count() -> int:
    """Return the number of GPUs that torch sees."""
    if not has_gpu_driver():
        return 0
    import torch

    return torch.cuda.device_count()


def free_system_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes this process may still allocate: Linux's MemAvailable, limited by the control group.

    Elsewhere it is the physical memory, or None if the system does not report it.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    except (OSError, StopIteration):  # not Linux
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
    group = root / "sys/fs/cgroup"
    try:
        limit = int((group / "memory.max").read_text())  # "max" is no limit
        used = int((group / "memory.current").read_text())
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(cached.get("inactive_file", 0)))
    except (OSError, ValueError):
        return free


def dtype_name(requested: str, on_gpu: bool) -> str:
    """Return the name of a config's dtype in torch. "auto" is bfloat16 if the device multiplies it, else float32.

    A GPU that is only planned is taken to multiply it. A CPU does with AVX512-BF16, AMX or Arm's bf16.
    """
    if requested != "auto":
        return requested
    native = on_gpu
    if on_gpu and has_gpu_driver():
        import torch

        native = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    elif not on_gpu and (flags := Path("/proc/cpuinfo")).exists():
        native = any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16", " bf16 "))
    return "bfloat16" if native else "float32"


def number_bytes(requested: str, device: Device) -> int:
    """Return the bytes per number in a config's dtype."""
    return 4 if dtype_name(requested, device.name != "cpu") == "float32" else 2


def keep_freed_memory() -> None:
    """Make glibc, if it is in use, keep freed memory for later tensors.

    By default it returns tensors of a few megabytes to the system and maps new pages for the next one, which costs a
    tenth of a training step on the CPU.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # from malloc.h; the last is limited to 32 MiB
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((mmap_threshold, 32 << 20), (trim_threshold, (1 << 31) - 1), (top_pad, 64 << 20)):
            mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """Make glibc return the memory it kept, which would grow between batches of different shapes."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def check_kernels(
    quantization: str, attention: str, cuda: bool, optimizer: str = "adamw", owner: str = "backbone"
) -> None:
    """Raise ValueError if a GPU or package is missing. `owner` is the part of the config with the quantisation."""
    settings = ((f"{owner}.quantization", quantization, "none"), ("training.optimizer", optimizer, "adamw"))
    for key, value, plain in settings:
        if value == plain:
            continue
        if importlib.util.find_spec("bitsandbytes") is None:
            install = "pip install 'alttrain[quantization]'"
            raise ValueError(f"{key}={value} needs the package bitsandbytes: {install}, or set {key}={plain}")
        version = importlib.metadata.version("bitsandbytes")
        if not cuda and tuple(int(part) for part in version.split(".")[:2]) < BITSANDBYTES_ON_CPU:
            needed = ".".join(map(str, BITSANDBYTES_ON_CPU))
            lacking = f"a CUDA GPU, and torch sees none, or bitsandbytes {needed}, and {version} is installed"
            raise ValueError(f"{key}={value} needs {lacking}; set {key}={plain}")
    if attention == "flash_attention_2" and not (cuda and importlib.util.find_spec("flash_attn")):
        needed = "the package flash_attn: pip install flash-attn, or" if cuda else "a CUDA GPU, and torch sees none;"
        raise ValueError(f"backbone.attention={attention} needs {needed} set backbone.attention=packed")
