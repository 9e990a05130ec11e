"""What determines the numbers of a run besides its settings: the lens, the data and the versions, as JSON."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import lens_multimodal
from lens_multimodal import transformer
from lens_multimodal.data import CocoScenes, Scene
from lens_multimodal.files import as_text, digest_of_tensors
from lens_multimodal.prompt.captioning_model import CaptioningModel

LIBRARIES = ("transformer-lens", "torch", "transformers", "timm", "numpy", "pandas", "pyarrow")


def provenance(lens: CaptioningModel, scenes: Sequence[Scene]) -> dict[str, Any]:
    """The lens, its weights, the data and the versions.

    Cost: all weights pass through the CPU once, at about a second per gigabyte (12 s for GPT-J in bfloat16).
        A cheaper check would miss a weight that was edited in place.
    """
    s = lens.shape
    return {
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
            **plain(lens.images.settings()),
        },
        "weights_sha256": weights_digests(lens),
        "data": {"scenes": len(scenes), "sha256": data_hash(scenes)},
        "folder": as_text(str(scenes[0].path.parent)),
        "left_out": _left_out(scenes),
        "versions": {"lens-multimodal": lens_multimodal.__version__, **{name: version(name) for name in LIBRARIES}},
    }


def weights_digests(lens: CaptioningModel) -> dict[str, str]:
    """SHA-256 over the weights of the language model and of each part that reads pictures. Cost: see `provenance`."""
    return {
        "language": digest_of_tensors(lens.model.state_dict()),
        **{name: digest_of_tensors(part.state_dict()) for name, part in lens.images.parts.items()},
    }


def check_same_lens(lens: CaptioningModel, manifest: Mapping[str, Any], *, made: str) -> None:
    """Check that a run's numbers are about this lens.

    Args: made: what the run has made, for the message.
    Raises: ValueError if weights or their processing differ. Cost: see `provenance`.
    """
    known = manifest["model"]
    own = {"class": type(lens.model).__name__, "weight_processing": transformer.weight_processing(lens.model)}
    different = [f"{name} is {value}, not {known[name]}" for name, value in own.items() if value != known[name]]
    if not different:
        digests = manifest["weights_sha256"]
        different = [
            f"other weights: {name}" for name, own in weights_digests(lens).items() if own != digests.get(name)
        ]
    if different:
        raise ValueError(
            f"{made} was made with {known['name']} ({known['dtype']}), not with this lens: {'; '.join(different)}"
        )


def data_hash(scenes: Sequence[Scene]) -> str:
    """SHA-256 over the captions, objects, and names and sizes of the picture files; pixels are not read."""
    digest = hashlib.sha256()
    for scene in scenes:
        objects = [(o.id, o.category, o.supercategory, o.area, o.box, o.is_crowd, o.extra) for o in scene.objects]
        size = scene.path.stat().st_size if scene.path.is_file() else None
        entry = (scene.id, as_text(scene.path.name), size, scene.height, scene.width, scene.captions, objects)
        digest.update(json.dumps(entry, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()


def _left_out(scenes: Sequence[Scene]) -> dict[str, int]:
    """How many entries of the data set's files could not be used, by reason."""
    return dict(scenes.left_out.by_reason.most_common()) if isinstance(scenes, CocoScenes) else {}


def plain(value: Any) -> Any:
    """The value as JSON returns it, with lists for tuples and strings for keys."""
    return json.loads(json.dumps(value, default=str))
