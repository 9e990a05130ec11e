"""A run's manifest on disk: the folder belongs to one run and is continued only under the settings it was made with."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_multimodal.data import Scene
from lens_multimodal.files import check_folder_name, check_same_settings, write_text
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.runs.provenance import provenance

MANIFEST = "manifest.json"


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of a run, or None if there is none.

    Raises: ValueError for a damaged one.
    """
    path = out / MANIFEST
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete {out} to start over") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not the manifest of a run: delete {out} to start over")
    return found


def manifest_of_kind(out: Path, kind: str, *, holds: str) -> dict[str, Any]:
    """The manifest of a folder that should hold a run of one kind.

    Raises: FileNotFoundError without one; ValueError for a damaged one or that of another kind of run.
    """
    found = read_manifest(out)
    if found is None:
        raise FileNotFoundError(f"{out} holds no {holds}: it has no {MANIFEST}")
    if found.get("kind") != kind:
        raise ValueError(f"{out} is the folder of another kind of run: {found.get('kind')!r}")
    return found


def claim(
    out: Path, manifest: Mapping[str, Any], *, before: Mapping[str, Any] | None, may_differ: Collection[str]
) -> None:
    """Write the manifest of a run, after checking that it continues the one in `out`.

    Args:
        before: the manifest found in `out`, or None.
        may_differ: top-level entries that may change between two starts.

    Raises:
        SettingsChanged: the new manifest does not continue the old one; the message lists every difference.
        ValueError: the folder holds files but no manifest, or its name is not UTF-8.
    """
    check_folder_name(out)
    if before is None:
        strangers = [p.name for p in out.iterdir() if not p.name.startswith(".")] if out.is_dir() else []
        if strangers:
            raise ValueError(
                f"{out} holds {', '.join(sorted(strangers)[:5])} but no manifest of a run: choose an empty folder"
            )
    else:
        remedy = "Use another folder, take the settings of this one, or delete it to start over"
        check_same_settings(before, manifest, where=out, remedy=remedy, may_differ=may_differ)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def claim_over(out: Path, lens: CaptioningModel, scenes: Sequence[Scene], own: Mapping[str, Any]) -> None:
    """`claim` for a run of a lens over a data set; another folder with the same data continues it.

    Args: own: the manifest's other entries.
    """
    claim(out, {**own, **provenance(lens, scenes)}, before=read_manifest(out), may_differ=("folder",))
