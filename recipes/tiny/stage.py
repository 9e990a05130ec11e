"""What every stage shares: where its files lie, when it is finished, how it survives being killed."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class SettingsChanged(RuntimeError):
    """The stage was run before with other settings."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write to a temporary neighbour; the name appears only when the file is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    yield partial
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def run_once(folder: Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run `make` unless `folder/done.json` says that it ran with these very settings.

    Raises: SettingsChanged with the differing keys, if it ran with others.
    """
    begun, done = folder / "settings.json", folder / "done.json"
    if begun.exists():
        before = json.loads(begun.read_text())
        changed = {k: (before.get(k), settings.get(k)) for k in before | settings if before.get(k) != settings.get(k)}
        if changed:
            raise SettingsChanged(
                f"{folder} was made with other settings: "
                + ", ".join(f"{k}: {old!r} then, {new!r} now" for k, (old, new) in sorted(changed.items()))
                + f". Delete {folder} to make it anew, or use another --work folder."
            )
    if done.exists():
        return json.loads(done.read_text())
    write_json(begun, settings)
    report = make()
    write_json(done, report)
    return report


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    with atomic(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    return torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
