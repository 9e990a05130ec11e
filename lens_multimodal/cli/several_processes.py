"""`--processes`: one command as several processes that share its pictures, without a launcher."""

import os
import socket
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from runpy import run_module
from typing import Annotated

import typer

Processes = Annotated[
    int,
    typer.Option(
        min=1, help="Processes that share the pictures on this machine: one for each GPU, or on a CPU for each core."
    ),
]

command_line: ContextVar[Sequence[str]] = ContextVar("command_line")
"""The arguments of the command that runs."""


def run_in(processes: int) -> bool:
    """Run this command in several processes; returns False if one is enough or this is one of them.

    Raises: typer.Exit with the exit code of the first process that failed; the others are ended.
    """
    if processes == 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return False
    from torch.multiprocessing import ProcessExitedException, start_processes

    try:
        start_processes(_run_one, (processes, free_port(), command_line.get()), nprocs=processes, start_method="spawn")
    except ProcessExitedException as ended:
        raise typer.Exit(ended.exit_code) from None
    return True


def _run_one(rank: int, processes: int, port: int, arguments: Sequence[str]) -> None:
    """The command in one of the processes, which find each other as those of `torchrun` do."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        # Together no more threads than before: with more than cores, they would wait for each other most of the time.
        threads = max(1, torch.get_num_threads() // processes)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # or else accelerate sets its own number
    own = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in own.items()})
    sys.argv[1:] = arguments
    run_module("lens_multimodal", run_name="__main__")


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])
