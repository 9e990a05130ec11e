"""A random trio of real parts: language model with tokenizer, timm BEiT, linear map."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.models.beit import Beit
from torch import nn

from lens_multimodal import Preprocessing, VisionEncoder, VisionLens, attach_vision
from tests.analysis.words import tokenizer
from tests.models import random_language_model, wrapped_model

SIDE, PATCH, D_VISION = 24, 8, 20
N_PATCHES = (SIDE // PATCH) ** 2


def random_beit(seed: int = 0) -> VisionEncoder:
    """Three by three image patches; every weight random, the ones that start at zero included."""
    module = Beit(
        img_size=SIDE, patch_size=PATCH, embed_dim=D_VISION, depth=2, num_heads=2, mlp_ratio=1.5, num_classes=0,
        init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    randomise(module, seed=seed)
    preprocessing = Preprocessing(height=SIDE, width=SIDE, mean=(0.4, 0.5, 0.6))
    return VisionEncoder(module.requires_grad_(False), preprocessing=preprocessing, name="random BEiT")


def randomise(module: nn.Module, *, seed: int, scale: float = 0.5) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def random_linear(d_model: int = 24, *, seed: int = 1) -> nn.Linear:
    linear = nn.Linear(D_VISION, d_model)
    randomise(linear, seed=seed)
    return linear


def random_lens(folder: Path, *, kind: str = "bridge", layout: str = "gpt-j", seed: int = 0) -> VisionLens:
    """A lens on a random model; its tokenizer is saved in `folder`."""
    words = tokenizer(folder / "tokenizer")
    model = wrapped_model(kind, random_language_model(layout, seed=seed), words)
    return attach_vision(model, vision=random_beit(), projection=random_linear(), tokenizer=words)


def random_picture(seed: int = 0, *, height: int = 20, width: int = 30) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
