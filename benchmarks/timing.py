"""Fair timing: every contender runs once per round, warmed up, medians over rounds.

On a GPU it is wall-clock time between two synchronisations. On a CPU it is the processor time of one thread:
other work on the machine does not count, though it still disturbs caches and clock rates.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one contender over all rounds."""

    median: float
    lowest: float
    highest: float
    rounds: int


def interleaved(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, device: str, warm_up: int = 1
) -> dict[str, Timing]:
    """Run every contender once per round, so that what disturbs one round disturbs all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        for name, run in contenders.items():
            took = timed(run, device)
            if number >= warm_up:
                seconds[name].append(took)
    return {
        name: Timing(median=statistics.median(all_), lowest=min(all_), highest=max(all_), rounds=len(all_))
        for name, all_ in seconds.items()
    }


def timed(run: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    _synchronise(device)
    began = clock()
    run()
    _synchronise(device)
    return clock() - began


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
