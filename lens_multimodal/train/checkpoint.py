"""Checkpoints of a fit: written atomically, and resumed only under the settings they were made with."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lens_multimodal.files import check_same_settings, write_atomically


def resume(folder: Path, projector: nn.Module, optimizers: Sequence[Optimizer], scaler: Any, settings: Any) -> int:
    """Load the checkpoint in `folder`, if there is one.

    Returns: the step to continue from, 0 without a checkpoint.
    Raises: SettingsChanged; ValueError for a damaged checkpoint or one of another projection.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        remedy = "Use another folder, or delete this checkpoint"
        check_same_settings(dict(state["settings"].items()), asdict(settings), where=path, remedy=remedy)
        projector.load_state_dict(state["projector"])
        for optimizer, own in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        scaler.load_state_dict(state.get("scaler", {}))
        return int(state["step"])
    except (RuntimeError, EOFError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is damaged or belongs to another projection ({type(error).__name__}: {str(error)[:200]}); "
            f"delete it to start again, or use another folder"
        ) from error


def cut_log(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run repeats, and a line that was not written to its end."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    with write_atomically(path) as partial:
        partial.write_text("".join(kept))


def save(
    folder: Path, step: int, projector: nn.Module, optimizers: Sequence[Optimizer], scaler: Any, settings: Any
) -> None:
    """Write the checkpoint of this step, in place of an older one."""
    state = {
        "step": step,
        "projector": projector.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "scaler": scaler.state_dict(),
        "settings": asdict(settings),
    }
    with write_atomically(folder / "checkpoint.pt") as partial:
        torch.save(state, partial)
