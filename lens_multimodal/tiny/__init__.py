"""The embedded tiny trio: a GPT-J, a BEiT and one linear map, trained by `recipes/tiny` and shipped as weights.

The folder holds `language/` (a Hugging Face folder), `vision.json` and `vision.safetensors` (timm
`Beit`), `projection.safetensors` (LiMBeR's `weight` and `bias`), `scenes/` (COCO format) and the model card.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.preprocessing import Preprocessing
from lens_multimodal.prompt.projection import load_linear
from lens_multimodal.transformer.loading import load_causal_lm

FOLDER = Path(__file__).parent

ENCODER_NAME = "tiny BEiT"


class MissingWeights(RuntimeError):
    """A part of the tiny trio is missing or damaged."""


def load_language_model(folder: Path = FOLDER) -> tuple[nn.Module, object]:
    """The frozen GPT-J in float32, and its tokenizer.

    Raises: MissingWeights.
    """
    from transformers import AutoTokenizer

    home = folder / "language"
    _need(home / "config.json", home / "model.safetensors", home / "tokenizer.json")
    try:
        model, _ = load_causal_lm(home, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(home, local_files_only=True)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(home, error) from error
    return model, tokenizer


def load_vision(folder: Path = FOLDER) -> VisionEncoder:
    """The frozen BEiT in float32, with its preprocessing.

    Raises: MissingWeights.
    """
    from timm.models.beit import Beit

    config_file, weights_file = folder / "vision.json", folder / "vision.safetensors"
    _need(config_file, weights_file)
    try:
        config = read_vision_config(folder)
        module = Beit(**config["beit"])
        module.load_state_dict({k: v.float() for k, v in load_file(weights_file).items()})
        preprocessing = Preprocessing.from_json(config["preprocessing"])
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _damaged(weights_file, error) from error
    return VisionEncoder(module.requires_grad_(False), preprocessing=preprocessing, name=ENCODER_NAME)


def read_vision_config(folder: Path = FOLDER) -> dict[str, Any]:
    """The arguments of timm's `Beit`, under `beit`, the preprocessing, and the limit of `tiny.familiarity`."""
    config: dict[str, Any] = json.loads((folder / "vision.json").read_text())
    return config


def load_projection(folder: Path = FOLDER) -> nn.Linear:
    """The one trained linear map in float32.

    Raises: MissingWeights.
    """
    path = folder / "projection.safetensors"
    _need(path)
    try:
        return load_linear(path).float().requires_grad_(False)
    except ValueError as error:
        raise _damaged(path, error) from error


def scenes_folder(folder: Path = FOLDER) -> Path:
    """The sample scenes: `images/`, `instances.json`, `captions.json`.

    Raises: MissingWeights.
    """
    scenes = folder / "scenes"
    _need(scenes / "instances.json", scenes / "captions.json")
    return scenes


def _need(*files: Path) -> None:
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise MissingWeights(
            f"the tiny trio lacks {', '.join(absent)} in {files[0].parent}: reinstall lens_multimodal, or rebuild the "
            f"trio with `python -m recipes.tiny all`"
        )


def _damaged(path: Path, error: Exception) -> MissingWeights:
    return MissingWeights(
        f"{path} is damaged ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}): reinstall "
        f"lens_multimodal"
    )
