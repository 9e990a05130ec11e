"""Memory of a part of a program, measured in two ways.

`tensor_peak` counts what is alive at once: by CUDA's allocator on a GPU, by PyTorch's profiler on a CPU.
`reset_peak`, `peak` and `in_use` measure the whole process on Linux: what the system must provide, including cached
and fragmented memory.
"""

import gc
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def tensor_peak(run: Callable[[], object], device: str = "cpu") -> int:
    """The largest rise in bytes of tensors while `run` runs for the second time.

    The first run releases what a `TransformerBridge` had kept from before.
    """
    run()
    gc.collect()
    gc.disable()  # a bridge makes reference cycles, which could be collected at any time
    try:
        return _on_cpu(run) if device == "cpu" else _on_gpu(run)
    finally:
        gc.enable()


def reset_peak(device: str) -> int:
    """Reset the peak and return the bytes in use."""
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


def _on_gpu(run: Callable[[], object]) -> int:
    before = reset_peak("cuda")
    run()
    return peak("cuda") - before


def _on_cpu(run: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = list(accumulate((e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())), initial=0))
    return max(now - lowest for now, lowest in zip(alive, accumulate(alive, min), strict=True))


def _process_memory(field: str) -> int:
    """Bytes, from Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
