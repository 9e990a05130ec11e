"""How the work is divided: one process, or those that `accelerate launch` or `torchrun` started."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The rank of this process, the number of processes, and a barrier."""

    rank: int = 0
    world: int = 1
    device: torch.device | None = None
    """The device that the launcher assigns to this process; None without a launcher."""
    wait: Callable[[], None] = lambda: None

    @classmethod
    def of_environment(cls) -> "Processes":
        """Read from the launcher's environment variables; a single process without a launcher."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        from accelerate import PartialState

        # A process that finishes early waits for the others, for hours if need be.
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
        return cls(
            rank=state.process_index, world=state.num_processes, device=state.device, wait=state.wait_for_everyone
        )
