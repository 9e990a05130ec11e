"""A command that is killed repeatedly while it works, and restarted until it is done."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

MOST = 3


def killed_until_done(command: Sequence[str], progress: Callable[[], int], *, seed: int) -> int:
    """Kill the command up to three times, each a random moment after it has made progress; returns how often."""
    clock = random.Random(seed)
    kills = 0
    while True:
        have = progress()
        started = subprocess.Popen(command, stderr=subprocess.PIPE)
        until = time.monotonic() + 120
        while started.poll() is None and time.monotonic() < until:
            if kills < MOST and progress() > have:
                time.sleep(clock.random() * 0.05)
                os.kill(started.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        _, said = started.communicate()
        if started.returncode == 0:
            return kills
        assert started.returncode == -signal.SIGKILL, said.decode()[-2000:]
