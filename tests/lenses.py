"""Small lenses on every layout, and the independent route: plain `transformers` with `inputs_embeds`."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.beit import Beit
from torch import Tensor, nn
from transformers import PreTrainedModel

from lens_multimodal import ImagePrompt, Preprocessing, VisionEncoder, VisionLens, attach_vision
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.prompt.assembling import assemble
from lens_multimodal.prompt.image_prompt import EmbeddedImage
from tests.models import D_VOCAB, LAYOUTS, MODEL_CLASSES, random_language_model, wrapped_model
from tests.tokenizers import word_tokenizer

CASES = [(layout, kind) for layout in LAYOUTS for kind in MODEL_CLASSES if kind != "hooked" or layout == "gpt-j"]
"""Every layout under every model class of the installed TransformerLens."""

IDS = ["-".join(case) for case in CASES]
each_case = pytest.mark.parametrize(("layout", "kind"), CASES, ids=IDS)

D_MODEL, PATCH = 24, 8


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a random BEiT with image patches of 8 x 8 pixels."""

    height: int
    width: int
    d_vision: int
    depth: int
    relative_positions: bool = False
    """Relative positions of the image patches in place of absolute ones."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def grid(self) -> tuple[int, int]:
        return self.height // PATCH, self.width // PATCH

    @property
    def n_patches(self) -> int:
        return math.prod(self.grid)


WIDE = Sizes(height=16, width=24, d_vision=10, depth=1)
"""Two rows of three image patches, so that code that mixes up rows and columns is caught."""
SQUARE = Sizes(height=24, width=24, d_vision=20, depth=2, relative_positions=True, mean=(0.4, 0.5, 0.6))
"""Three by three image patches, two blocks, relative positions as in BEiT itself, another mean for each channel."""
GRID, D_VISION, N_PATCHES = WIDE.grid, WIDE.d_vision, WIDE.n_patches


@cache
def hugging_face(layout: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """The bare language model; never wrapped, so never changed."""
    return random_language_model(layout, dtype=dtype, seed=seed)


def encoder(dtype: torch.dtype = torch.float32, *, sizes: Sizes = WIDE, seed: int = 0) -> VisionEncoder:
    """A random BEiT; every weight random, the ones that start at zero included."""
    relative = sizes.relative_positions
    module = Beit(
        img_size=(sizes.height, sizes.width), patch_size=PATCH, embed_dim=sizes.d_vision, depth=sizes.depth,
        num_heads=2, mlp_ratio=1.5, num_classes=0, init_values=0.1, use_abs_pos_emb=not relative,
        use_rel_pos_bias=relative, norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    randomise(module, seed=seed)
    preprocessing = Preprocessing(height=sizes.height, width=sizes.width, mean=sizes.mean)
    return VisionEncoder(module.to(dtype).requires_grad_(False), preprocessing=preprocessing, name="random BEiT")


def linear(
    d_vision: int = D_VISION, d_model: int = D_MODEL, dtype: torch.dtype = torch.float32, *, seed: int = 1
) -> nn.Linear:
    made = nn.Linear(d_vision, d_model)
    randomise(made, seed=seed)
    return made.to(dtype)


def randomise(module: nn.Module, *, seed: int, scale: float = 0.5) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def make_lens(
    layout: str = "gpt-j",
    kind: str = "bridge",
    *,
    dtype: torch.dtype = torch.float32,
    tokenizer: object = None,
    sizes: Sizes = WIDE,
    seed: int = 0,
) -> VisionLens:
    """A new lens on a new copy of the layout's weights."""
    model = wrapped_model(kind, hugging_face(layout, dtype, seed), tokenizer=tokenizer)
    parts = {"vision": encoder(dtype, sizes=sizes), "projection": linear(sizes.d_vision, dtype=dtype)}
    return attach_vision(model, **parts, tokenizer=tokenizer)


def random_lens(folder: Path, *, kind: str = "bridge", layout: str = "gpt-j", seed: int = 0) -> VisionLens:
    """A lens with the square encoder and a tokenizer of words, which is saved in `folder`."""
    return make_lens(layout, kind, tokenizer=word_tokenizer(folder / "tokenizer"), sizes=SQUARE, seed=seed)


def picture(seed: int = 0, *, height: int = 20, width: int = 30) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def random_prompt(lens: VisionLens, *layouts: list[int], seed: int = 0) -> ImagePrompt:
    """Rows of random pieces: `[6, -4, 2]` is an image of six vectors, four words, and an image of two vectors."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(lens.model.parameters()).dtype

    def piece(size: int):
        if size < 0:
            return torch.randint(3, D_VOCAB, (-size,), generator=generator).tolist()
        vectors = torch.randn(size, D_MODEL, generator=generator, dtype=torch.float64).to(dtype)
        return EmbeddedImage(soft_prompt=lens.virtual_tokens.store(vectors), placing=ImageLayout.one_grid(1, size))

    rows = [[piece(size) for size in sizes] for sizes in layouts]
    return assemble(rows, pad_id=0, device=torch.device("cpu"))


def inputs_embeds(language_model: PreTrainedModel, prompt: ImagePrompt) -> Tensor:
    """What a plain language model is given in place of the prompt's tokens."""
    words = prompt.tokens.masked_fill(prompt.image_mask, 0)
    embedded = language_model.get_input_embeddings()(words).detach().clone()
    for row, spans in enumerate(prompt.spans):
        for span in spans:
            embedded[row, span.start : span.stop] = span.image.soft_prompt.vectors.to(embedded)
    return embedded


@torch.no_grad()
def plain_logits(language_model: PreTrainedModel, prompt: ImagePrompt) -> list[Tensor]:
    """Logits of each row alone, without its padding."""
    rows = [prompt.row(i) for i in range(len(prompt))]
    return [language_model(inputs_embeds=inputs_embeds(language_model, row)).logits[0] for row in rows]


def unchecked(function: Callable) -> Callable:
    """A function as users have it, without the run-time checks of shapes that tests switch on."""
    return inspect.unwrap(function)


def assert_different(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() > 1e-2, "nothing changed"
