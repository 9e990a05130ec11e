"""Who shares the work: one process, or those that `accelerate launch` or `torchrun` started."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process's number among all, and a meeting point."""

    rank: int = 0
    world: int = 1
    device: torch.device | None = None
    """Where the launcher wants this process to compute; None without a launcher."""
    wait: Callable[[], None] = lambda: None

    @classmethod
    def of_environment(cls) -> "Processes":
        """What the launcher's environment variables say; alone where there was no launcher.

        Raises: ImportError if there was one and accelerate is not installed.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise ImportError(
                "several processes were launched, which needs accelerate: pip install 'lens-multimodal[train]'"
            ) from error
        # A process whose pictures are quicker waits for the others, for hours if need be.
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
        return cls(
            rank=state.process_index, world=state.num_processes, device=state.device, wait=state.wait_for_everyone
        )
