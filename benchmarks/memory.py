"""Memory of one stretch of a program: of the GPU, or of the process on Linux."""

from pathlib import Path

import torch


def reset_peak(device: str) -> int:
    """Forget the peak so far and return what is in use."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    return in_use(device)


def peak(device: str) -> int:
    """The largest number of bytes in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device != "cpu" else _process_memory("VmHWM")


def in_use(device: str) -> int:
    """Bytes in use now."""
    return torch.cuda.memory_allocated() if device != "cpu" else _process_memory("VmRSS")


def _process_memory(field: str) -> int:
    """Bytes, from Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
