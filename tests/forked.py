"""Work in processes that are forked from the test's own: they import nothing, so they begin at once."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from threading import RLock

from tqdm import tqdm

from lens_multimodal.cli.several_processes import free_port

MOST_KILLS = 3
tqdm.set_lock(RLock())  # its own is shared with forked processes, and one killed while it holds the lock stops all


def forked(work: Callable[[], object], **environment: str) -> ForkProcess:
    """Start work in a process of its own, with some environment variables more."""
    child = multiprocessing.get_context("fork").Process(target=_run, args=(work, environment), daemon=True)
    child.start()
    return child


def two_forked(work: Callable[[], object]) -> list[ForkProcess]:
    """Start work in two processes that know of each other, as `torchrun` does."""
    together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [forked(work, RANK=rank, LOCAL_RANK=rank, **together) for rank in ("0", "1")]


def assert_finished(children: Sequence[ForkProcess]) -> None:
    """Wait for all; if one fails, the others are killed, which might wait for it forever."""
    running = {child.sentinel: child for child in children}
    while running:
        for done in wait(list(running)):
            child = running.pop(done)
            child.join()
            if child.exitcode:
                kill(*running.values())
                raise AssertionError(f"a forked process ended with {child.exitcode}; it says above why")


def kill(*children: ForkProcess) -> None:
    for child in children:
        child.kill()
    for child in children:
        child.join()


def killed_until_done(work: Callable[[], object], progress: Callable[[], int], *, seed: int) -> int:
    """Kill the work up to three times, each a random moment after it has made progress; returns how often."""
    clock = random.Random(seed)
    kills = 0
    while True:
        have = progress()
        child = forked(work)
        while child.is_alive():
            if kills < MOST_KILLS and progress() > have:
                time.sleep(clock.random() * 0.05)
                kill(child)
                kills += 1
                break
            time.sleep(0.001)
        child.join()
        if child.exitcode == 0:
            return kills
        assert child.exitcode == -signal.SIGKILL, "the work failed; it says above why"


def _run(work: Callable[[], object], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    if "accelerate" in sys.modules:  # it remembers how the work of the test's process is divided
        sys.modules["accelerate"].PartialState._reset_state()
    work()
