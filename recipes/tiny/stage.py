"""What all stages share: where their files are, when they are finished, and how they resume after an interruption."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lens_multimodal.files import check_same_settings, write_atomically


def write_json(path: Path, value: Any) -> None:
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def run_once(folder: Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run `make` unless `folder/done.json` says that it ran with the same settings.

    Raises: SettingsChanged with the differing keys, if it ran with other settings.
    """
    begun, done = folder / "settings.json", folder / "done.json"
    if begun.exists():
        before = json.loads(begun.read_text())
        remedy = f"Delete {folder} to make it again, or use another --work folder"
        check_same_settings(before, settings, where=folder, remedy=remedy)
    if done.exists():
        return json.loads(done.read_text())
    write_json(begun, settings)
    report = make()
    write_json(done, report)
    return report


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    with write_atomically(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    return torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
