"""What decides the rows of a run, written beside them; a run is continued only under the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lens_multimodal
from lens_multimodal import transformer
from lens_multimodal.data import Scene
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.files import SettingsChanged, check_same_settings, digest_of_tensors, write_text
from lens_multimodal.lens import VisionLens

LIBRARIES = ("transformer-lens", "torch", "transformers", "timm", "numpy", "pandas", "pyarrow")

MAY_DIFFER = ("limit", "folder")
"""Entries that may change between two starts: more pictures may follow, and the data may move."""


def describe(
    lens: VisionLens,
    experiments: Sequence[Experiment],
    scenes: Sequence[Scene],
    *,
    settings: Mapping[str, Any],
    seed: int,
    limit: int | None,
) -> dict[str, Any]:
    """Settings, versions, weights and data of a run, as JSON.

    Args: settings: for "picture" and for each experiment a dataclass.
    """
    s = lens.shape
    return {
        "experiments": {experiment.name: experiment.version for experiment in experiments},
        "settings": {name: _plain(asdict(chosen)) for name, chosen in settings.items()},
        "seed": seed,
        "limit": limit,
        "model": {
            "name": lens.name,
            "class": type(lens.model).__name__,
            "weight_processing": transformer.weight_processing(lens.model),
            "device": transformer.device(lens.model).type,
            "dtype": str(next(lens.model.parameters()).dtype).removeprefix("torch."),
            "n_layers": s.n_layers,
            "d_model": s.d_model,
            "d_mlp": s.d_mlp,
            "d_vocab": s.d_vocab,
            "vision": lens.vision.name,
            "grid": [lens.vision.grid_h, lens.vision.grid_w],
            "preprocessing": _plain(lens.vision.preprocessing.to_json()),
        },
        "weights_sha256": {
            "language": digest_of_tensors(lens.model.state_dict()),
            "vision": digest_of_tensors(lens.vision.state_dict()),
            "projection": digest_of_tensors(lens.projection.state_dict()),
        },
        "data": {"scenes": len(scenes), "sha256": data_hash(scenes)},
        "folder": str(scenes[0].path.parent),
        "versions": {"lens-multimodal": lens_multimodal.__version__, **{name: version(name) for name in LIBRARIES}},
    }


def claim(out: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, or check that the one that is there allows to go on.

    Raises:
        SettingsChanged: it does not; the message shows every difference.
        ValueError: the manifest is damaged, or the folder holds files but no manifest.
    """
    before = read(out)
    if before is None:
        strangers = [p.name for p in out.iterdir() if not p.name.startswith(".")] if out.is_dir() else []
        if strangers:
            raise ValueError(
                f"{out} holds {', '.join(sorted(strangers)[:5])} but no manifest of a run: choose an empty folder"
            )
    else:
        remedy = "Use another folder, take the settings of this one, or delete it to start anew"
        check_same_settings(before, manifest, where=out, remedy=remedy, may_differ=MAY_DIFFER)
        shrunk = _shrunk(before["limit"], manifest["limit"])
        if shrunk:
            raise SettingsChanged(
                f"{out} was made for {shrunk} pictures, now only {manifest['limit']} are asked for: a run can be "
                f"made longer, not shorter; use another folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def read(out: Path) -> dict[str, Any] | None:
    """The manifest of a run, or None where there is none.

    Raises: ValueError for a damaged one.
    """
    path = out / "manifest.json"
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete {out} to start anew") from error
    if not isinstance(found, dict) or not isinstance(found.get("experiments"), dict) or not _is_limit(found):
        raise ValueError(f"{path} is not the manifest of a run: delete {out} to start anew")
    return found


def _is_limit(manifest: Mapping[str, Any]) -> bool:
    limit = manifest.get("limit", "absent")
    return limit is None or (isinstance(limit, int) and not isinstance(limit, bool))


def data_hash(scenes: Sequence[Scene]) -> str:
    """SHA-256 over names and sizes of the picture files, captions and objects of a data set; pixels are not read."""
    digest = hashlib.sha256()
    for scene in scenes:
        objects = [(o.id, o.category, o.supercategory, o.area, o.box, o.is_crowd, o.extra) for o in scene.objects]
        size = scene.path.stat().st_size if scene.path.is_file() else None
        entry = (scene.id, scene.path.name, size, scene.height, scene.width, scene.captions, objects)
        digest.update(json.dumps(entry, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()


def _shrunk(before: int | None, now: int | None) -> str | None:
    if now is None or before == now:
        return None
    if before is None:
        return "all"
    return str(before) if now < before else None


def _plain(value: Any) -> Any:
    """As it comes back from JSON: tuples are lists there, and keys strings."""
    return json.loads(json.dumps(value, default=str))
