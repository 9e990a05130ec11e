"""The machine, and its ceilings: measured speed of large matrix products and copies."""

import os
import platform
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import interleaved

PACKAGES = ("torch", "transformers", "transformer-lens", "timm", "accelerate", "captum", "nnsight")


def describe(device: str) -> dict[str, Any]:
    """Machine, versions, date, and how busy the machine is with other work."""
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < 0.5:
        pass
    share = (time.process_time() - used) / (time.perf_counter() - began)
    cores = os.cpu_count() or 1
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device != "cpu" else f"{_processor()}, one thread of {cores} cores",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "busy": {
            "load average over one minute": round(os.getloadavg()[0], 1),
            "cores": cores,
            "share of a core that this process got": round(share, 2),
            "note": "processor time is reported on a CPU; read ratios within one run, not seconds between runs",
        },
    }


def ceilings(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Measured FLOP/s of a large matrix product in this precision, and bytes/s of a large copy (read and write)."""
    size = 8192 if device != "cpu" else (768 if dtype == torch.float16 else 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.empty(2**30 if device != "cpu" else 2**27, dtype=torch.uint8, device=device).fill_(1)
    copy = torch.empty_like(source)
    took = interleaved(
        {"matmul": lambda: a @ b.T, "copy": lambda: copy.copy_(source)}, rounds=9, device=device, warm_up=3
    )
    return {
        "matmul FLOP/s": 2 * size**3 / took["matmul"].median,
        "copy bytes/s": 2 * source.numel() / took["copy"].median,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
