"""Small lenses on every layout, and the independent route: plain `transformers` with `inputs_embeds`."""

import inspect
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from PIL import Image
from timm.models.beit import Beit
from torch import Tensor, nn
from transformers import PreTrainedModel

from lens_multimodal import ImagePrompt, Preprocessing, VisionEncoder, VisionLens, attach_vision
from lens_multimodal.prompt.image_prompt import EmbeddedImage, assemble
from tests.models import D_VOCAB, LAYOUTS, MODEL_CLASSES, random_language_model, wrapped_model

CASES = [(layout, kind) for layout in LAYOUTS for kind in MODEL_CLASSES if kind != "hooked" or layout == "gpt-j"]
"""Every layout under every model class of the installed TransformerLens."""

IDS = ["-".join(case) for case in CASES]

D_MODEL, D_VISION, GRID = 24, 10, (2, 3)
N_PATCHES = GRID[0] * GRID[1]


@cache
def hugging_face(layout: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The bare language model; never wrapped, so never changed."""
    return random_language_model(layout, dtype=dtype)


def encoder(dtype: torch.dtype = torch.float32) -> VisionEncoder:
    """A random BEiT over 16 x 24 pixels: two rows of three image patches."""
    torch.manual_seed(7)
    module = Beit(
        img_size=(16, 24), patch_size=8, embed_dim=D_VISION, depth=1, num_heads=2, num_classes=0, init_values=0.5
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return VisionEncoder(module.to(dtype), preprocessing=Preprocessing(height=16, width=24))


def linear(d_vision: int = D_VISION, d_model: int = D_MODEL, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(8)
    return nn.Linear(d_vision, d_model, dtype=dtype)


def make_lens(
    layout: str = "gpt-j", kind: str = "bridge", *, dtype: torch.dtype = torch.float32, tokenizer: object = None
) -> VisionLens:
    """A new lens on a new copy of the layout's weights."""
    model = wrapped_model(kind, hugging_face(layout, dtype), tokenizer=tokenizer)
    return attach_vision(model, vision=encoder(dtype), projection=linear(dtype=dtype), tokenizer=tokenizer)


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
        return EmbeddedImage(soft_prompt=lens.virtual_tokens.store(vectors), grid_h=1, grid_w=size)

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
