"""How the work is divided: one process, or those that `accelerate launch` or `torchrun` started."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
from tqdm.auto import tqdm


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The rank of this process, the number of processes, and how the work is divided among them."""

    rank: int = 0
    world: int = 1
    device: torch.device | None = None
    """The device that the launcher assigns to this process; None without a launcher."""
    wait: Callable[[], None] = lambda: None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def share(self, number: int) -> range:
        """The numbers below this one that are this process's part of the work."""
        return range(self.rank, number, self.world)

    def bar(self, *, total: int, progress: bool, done: int = 0, unit: str = "picture") -> tqdm:
        """A progress bar over this process's share; the first process shows its own."""
        return tqdm(
            total=total,
            initial=done,
            desc=f"{unit}s",
            unit=unit,
            disable=not (progress and self.is_first),
            delay=2.0,
        )

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
