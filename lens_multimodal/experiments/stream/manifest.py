"""The manifest of a run: everything that determines its rows, written beside them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lens_multimodal
from lens_multimodal import transformer
from lens_multimodal.data import CocoScenes, Scene
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.files import as_text, digest_of_tensors
from lens_multimodal.lens import VisionLens

LIBRARIES = ("transformer-lens", "torch", "transformers", "timm", "numpy", "pandas", "pyarrow")


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
    Cost: all weights pass through the CPU once, at about a second per gigabyte (12 s for GPT-J in bfloat16).
        A cheaper check would miss a weight that was edited in place.
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
            **_plain(lens.images.settings()),
        },
        "weights_sha256": {
            "language": digest_of_tensors(lens.model.state_dict()),
            **{name: digest_of_tensors(part.state_dict()) for name, part in lens.images.parts.items()},
        },
        "data": {"scenes": len(scenes), "sha256": data_hash(scenes)},
        "folder": as_text(str(scenes[0].path.parent)),
        "left_out": _left_out(scenes),
        "versions": {"lens-multimodal": lens_multimodal.__version__, **{name: version(name) for name in LIBRARIES}},
    }


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
        raise ValueError(f"{path} is damaged ({error}): delete {out} to start over") from error
    if not isinstance(found, dict) or not isinstance(found.get("experiments"), dict) or not _is_limit(found):
        raise ValueError(f"{path} is not the manifest of a run: delete {out} to start over")
    return found


def _is_limit(manifest: Mapping[str, Any]) -> bool:
    limit = manifest.get("limit", "absent")
    return limit is None or (isinstance(limit, int) and not isinstance(limit, bool))


def data_hash(scenes: Sequence[Scene]) -> str:
    """SHA-256 over the captions, objects, and names and sizes of the picture files; pixels are not read."""
    digest = hashlib.sha256()
    for scene in scenes:
        objects = [(o.id, o.category, o.supercategory, o.area, o.box, o.is_crowd, o.extra) for o in scene.objects]
        size = scene.path.stat().st_size if scene.path.is_file() else None
        entry = (scene.id, scene.path.name, size, scene.height, scene.width, scene.captions, objects)
        digest.update(json.dumps(entry, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()


def _left_out(scenes: Sequence[Scene]) -> dict[str, int]:
    """How many entries of the data set's files could not be used, by reason."""
    return dict(scenes.left_out.by_reason.most_common()) if isinstance(scenes, CocoScenes) else {}


def _plain(value: Any) -> Any:
    """The value as JSON returns it, with lists for tuples and strings for keys."""
    return json.loads(json.dumps(value, default=str))
