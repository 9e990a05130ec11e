"""The state of a fit on disk: whole at every moment, and resumed only under the settings it was made with."""

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


def resume(folder: Path, linear: nn.Linear, optimizers: Sequence[Optimizer], scaler: Any, settings: Any) -> int:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        remedy = "Use another folder, or delete this checkpoint"
        check_same_settings(dict(state["settings"].items()), asdict(settings), where=path, remedy=remedy)
        linear.load_state_dict(state["linear"])
        for optimizer, own in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        scaler.load_state_dict(state.get("scaler", {}))
        return int(state["step"])
    except (RuntimeError, EOFError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is damaged or belongs to another projection ({type(error).__name__}: {str(error)[:200]}); "
            f"delete it to start anew, or use another folder"
        ) from error


def cut_log(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run makes again, and a line cut off while it was written."""
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
    folder: Path, step: int, linear: nn.Linear, optimizers: Sequence[Optimizer], scaler: Any, settings: Any
) -> None:
    state = {
        "step": step,
        "linear": linear.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "scaler": scaler.state_dict(),
        "settings": asdict(settings),
    }
    with write_atomically(folder / "checkpoint.pt") as partial:
        torch.save(state, partial)
