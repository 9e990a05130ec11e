"""The manifest of a run: everything that determines its rows, written beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lens_multimodal.data import Scene
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.lens import VisionLens
from lens_multimodal.runs.claim import MANIFEST, read_manifest
from lens_multimodal.runs.provenance import plain, provenance


def describe(
    lens: VisionLens,
    experiments: Sequence[Experiment[Any]],
    scenes: Sequence[Scene],
    *,
    settings: Mapping[str, Any],
    seed: int,
    limit: int | None,
) -> dict[str, Any]:
    """Settings, versions, weights and data of a run, as JSON.

    Args: settings: a dataclass for "picture" and for each experiment.
    Cost: all weights are hashed, see `provenance`.
    """
    return {
        "experiments": {experiment.name: experiment.version for experiment in experiments},
        "settings": {name: plain(asdict(chosen)) for name, chosen in settings.items()},
        "seed": seed,
        "limit": limit,
        **provenance(lens, scenes),
    }


def read(out: Path) -> dict[str, Any] | None:
    """The manifest of a run, or None where there is none.

    Raises: ValueError for a damaged one.
    """
    found = read_manifest(out)
    if found is None:
        return None
    if not isinstance(found.get("experiments"), dict) or not _is_limit(found):
        raise ValueError(f"{out / MANIFEST} is not the manifest of a run: delete {out} to start over")
    return found


def _is_limit(manifest: Mapping[str, Any]) -> bool:
    limit = manifest.get("limit", "absent")
    return limit is None or (isinstance(limit, int) and not isinstance(limit, bool))
