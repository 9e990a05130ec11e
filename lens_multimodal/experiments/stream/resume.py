"""How a run continues: only under the settings it was made with, and only with the pictures that lack rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lens_multimodal.data import Scene
from lens_multimodal.experiments.stream import manifest as manifests
from lens_multimodal.experiments.stream.parts import read_parts, remove_unfinished
from lens_multimodal.files import SettingsChanged
from lens_multimodal.runs import claim as runs_claim
from lens_multimodal.runs.processes import Processes

MAY_DIFFER = ("limit", "folder", "left_out")
"""Entries that may change between two starts: a run can be extended, and the data can be moved. What was left out
of the data changes their digest."""


def claim(out: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of a run, after checking that it continues the one in `out`.

    Raises:
        SettingsChanged: it does not; the message lists every difference.
        ValueError: the manifest is damaged, or the folder holds files but no manifest.
    """
    before = manifests.read(out)
    shrunk = None if before is None else _shrunk(before["limit"], manifest["limit"])
    if shrunk:
        raise SettingsChanged(
            f"{out} was made for {shrunk} pictures, but the limit is now {manifest['limit']}: a run can be extended, "
            f"not shortened; use another folder"
        )
    runs_claim.claim(out, manifest, before=before, may_differ=MAY_DIFFER)


def unfinished(out: Path, order: Sequence[Scene], processes: Processes) -> list[tuple[int, Scene]]:
    """This process's pictures without rows in any part, each with its place in the run.

    What this process was writing when it was killed is removed.
    """
    remove_unfinished(out, rank=processes.rank)
    done = {image_id for part in read_parts(out) for image_id in part.done}
    own = [(number, order[number]) for number in processes.share(len(order))]
    return [(place, scene) for place, scene in own if scene.id not in done]


def _shrunk(before: int | None, now: int | None) -> str | None:
    if now is None or before == now:
        return None
    if before is None:
        return "all"
    return str(before) if now < before else None
