"""Known trios: the embedded tiny one, and LiMBeR's four on GPT-J-6B (Merullo et al. 2023).

Nothing is downloaded. Language models and encoders come from a local folder or from this machine's Hugging Face cache,
LiMBeR's projections from `~/.cache/lens_multimodal/limber_weights` or from the path given.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lens_multimodal import tiny
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.presets import shapes
from lens_multimodal.presets.encoders import load_vision
from lens_multimodal.presets.random_weights import Architecture, RandomTrio, RandomWeights
from lens_multimodal.prompt.projection import load_linear
from lens_multimodal.transformer.loading import load_language_model

__all__ = ["GPT_J", "LIMBER_WEIGHTS", "Preset", "get", "load_vision", "names", "with_random_weights"]

LIMBER_WEIGHTS = Path.home() / ".cache" / "lens_multimodal" / "limber_weights"
"""Where the folders of LiMBeR's `limber_weights` belong: `beit_linear/proj.ckpt`, ..."""

GPT_J = "EleutherAI/gpt-j-6b"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A trio by name; each part is built on demand."""

    name: str
    language_model: Callable[..., tuple[nn.Module, Any]]
    vision: Callable[[], VisionEncoder]
    projection: Callable[[], nn.Module]
    architecture: Architecture


def get(model: Any) -> Preset | None:
    """The preset of this name, or None for anything else."""
    return _PRESETS.get(model) if isinstance(model, str) else None


def names() -> list[str]:
    """All presets, the embedded one first."""
    return list(_PRESETS)


def with_random_weights(
    preset: Any, weights: RandomWeights | str, *, device: Any = None, dtype: torch.dtype | None = None
) -> Preset:
    """The preset's architecture with random weights, made on the device and in the precision given.

    Args: weights: "random", or `RandomWeights` with a seed and a number of layers.
    Raises: ValueError for another string, or if `preset` is not a preset; TypeError for anything else.
    """
    if weights == "random":
        weights = RandomWeights()
    if isinstance(weights, str):
        raise ValueError(
            f"weights must be 'random' or RandomWeights(...), got {weights!r}; leave it out to load trained weights "
            f"from their files"
        )
    if not isinstance(weights, RandomWeights):
        raise TypeError(f"weights must be 'random' or RandomWeights(...), got {type(weights).__name__}")
    if not isinstance(preset, Preset):
        raise ValueError(
            f"random weights need the shape of a preset: attach_vision(name, weights='random') with one of "
            f"{', '.join(names())}"
        )
    trio = RandomTrio(architecture=preset.architecture, settings=weights, device=device, dtype=dtype)
    layers = "" if weights.n_layers is None else f", {weights.n_layers} layers"
    return replace(
        preset,
        name=f"{preset.name} (random weights, seed {weights.seed}{layers})",
        language_model=lambda **_placement: trio.language_model(),
        vision=trio.vision,
        projection=trio.projection,
    )


def _limber_projection(folder: str) -> nn.Linear:
    path = LIMBER_WEIGHTS / folder / "proj.ckpt"
    if not path.is_file():
        raise FileNotFoundError(
            f"no projection at {path}: copy limber_weights/{folder}/proj.ckpt from the GitHub repository "
            f"jmerullo/limber there, or pass projection='path/to/proj.ckpt'"
        )
    return load_linear(path)


def _gpt_j(*, device: Any = None, dtype: torch.dtype | None = None) -> tuple[nn.Module, Any]:
    return load_language_model(GPT_J, device=device, dtype=dtype)


def _tiny_language_model(**_placement: Any) -> tuple[nn.Module, Any]:
    return tiny.load_language_model()


def _limber(name: str, vision: str, folder: str, architecture: Architecture) -> Preset:
    return Preset(
        name=name,
        language_model=_gpt_j,
        vision=lambda: load_vision(vision),
        projection=lambda: _limber_projection(folder),
        architecture=architecture,
    )


_PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            language_model=_tiny_language_model,
            vision=tiny.load_vision,
            projection=tiny.load_projection,
            architecture=shapes.TINY,
        ),
        _limber("gpt-j-limber-beit", "beit-large", "beit_linear", shapes.LIMBER_BEIT),
        _limber("gpt-j-limber-beit-ft", "beit-large-ft", "beit_ft_linear", shapes.LIMBER_BEIT_FT),
        _limber("gpt-j-limber-clip", "clip-rn50x16", "clip_linear", shapes.LIMBER_CLIP),
        _limber("gpt-j-limber-nf-resnet50", "nf-resnet50", "nfrn50_4096_linear", shapes.LIMBER_NF_RESNET),
    )
}
