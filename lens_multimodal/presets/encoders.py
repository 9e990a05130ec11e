"""Trained image encoders by name, with the preprocessing they were trained with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lens_multimodal import tiny
from lens_multimodal.closest_names import closest
from lens_multimodal.image.beit import beit_from_huggingface
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.preprocessing import Preprocessing
from lens_multimodal.transformer.loading import absent, check_complete

BEIT = Preprocessing(height=224, width=224)
"""LiMBeR's feature extractor: both sides are resized to 224, whatever the aspect ratio; mean and std are 0.5."""

CLIP = Preprocessing(
    height=384,
    width=384,
    crop_mode="center",
    interpolation="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)

NF_RESNET = Preprocessing(height=384, width=384, crop_mode="center", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""LiMBeR feeds this encoder unnormalised pixels of a random crop. Here the crop is central, so that a picture always
gives the same caption."""


class PooledGrid(nn.Module):
    """A convolutional encoder whose features, averaged over the grid, are one image patch (LiMBeR's NF-ResNet50)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        grid: torch.Tensor = self.module.forward_features(pixels)  # type: ignore[operator]
        return grid.mean(dim=(2, 3))[:, None]


def load_vision(name: str) -> VisionEncoder:
    """An encoder by the name of a preset, of a local Hugging Face BEiT folder, or of a pretrained timm model.

    Raises:
        FileNotFoundError: its weights are not on this machine.
        ValueError: no encoder has this name.
    """
    import timm

    if name in _VISIONS:
        return _VISIONS[name]()
    if Path(name).is_dir():
        return _huggingface_beit(name)
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(
            f"no image encoder {name!r}: expected one of {', '.join(_VISIONS)}, a folder with a Hugging Face "
            f"BEiT, or a timm model{closest(name.split('.')[0], timm.list_models())}"
        )
    return VisionEncoder(_timm(name), name=name)


def _huggingface_beit(name: str) -> VisionEncoder:
    from transformers import AutoConfig, BeitModel

    needed = "config.json and the weights of a BeitModel"
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise absent("image encoder", name, needed)
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
        if config.model_type != "beit":
            raise ValueError(f"expected a BEiT in {name!r}, got a {config.model_type} model")
        load: Any = BeitModel.from_pretrained
        model, info = load(
            name, config=config, local_files_only=True, add_pooling_layer=False, output_loading_info=True
        )
    except OSError as error:
        raise absent("image encoder", name, needed) from error
    check_complete(f"image encoder {name!r}", info)
    size: Any = model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return VisionEncoder(
        beit_from_huggingface(model).requires_grad_(False),
        preprocessing=replace(BEIT, height=height, width=width),
        name=Path(name).name,
    )


def _timm(name: str) -> nn.Module:
    """A pretrained timm model from this machine's Hugging Face cache; timm itself would download it."""
    import timm

    file = _cached_weights(timm.get_pretrained_cfg(name, allow_unregistered=True))
    if file is None:
        raise absent("image encoder", f"timm/{name}", "model.safetensors")
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file})
    return model.eval().requires_grad_(False)


def _cached_weights(published: Any) -> str | None:
    """The file of a timm model's published weights, safetensors before pickles."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = str(getattr(published, "hf_hub_id", None) or "").partition("@")
    pickled = getattr(published, "hf_hub_filename", None) or "pytorch_model.bin"
    safe = "open_clip_model.safetensors" if pickled == "open_clip_pytorch_model.bin" else "model.safetensors"
    files = (pickled,) if pickled.endswith(".safetensors") else (safe, pickled)
    found = (try_to_load_from_cache(repository, file, revision=revision or None) for file in files if repository)
    return next((path for path in found if isinstance(path, str)), None)


_VISIONS: dict[str, Callable[[], VisionEncoder]] = {
    "tiny": tiny.load_vision,
    "beit-large": lambda: _huggingface_beit("microsoft/beit-large-patch16-224-pt22k"),
    "beit-large-ft": lambda: _huggingface_beit("microsoft/beit-large-patch16-224-pt22k-ft22k"),
    "clip-rn50x16": lambda: VisionEncoder(_timm("resnet50x16_clip.openai"), preprocessing=CLIP, name="CLIP RN50x16"),
    "nf-resnet50": lambda: VisionEncoder(
        PooledGrid(_timm("nf_resnet50.ra2_in1k")), preprocessing=NF_RESNET, name="NF-ResNet50"
    ),
}
