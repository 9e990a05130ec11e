"""One lens for each family, beside an untouched model of the same weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lens_multimodal import VisionLens, attach_vision
from lens_multimodal.transformer import hooked_transformer
from tests.vision_language.models import FAMILIES, build

AYA_NEEDS = "Aya Vision's decoder (Cohere2) is wrong in TransformerLens 3, and attach_vision refuses it there"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same weights twice: plain Hugging Face, and under a lens."""

    family: str
    """A name in `FAMILIES`."""
    plain: Any
    """The Hugging Face model."""
    processor: Any
    """Its processor."""
    lens: VisionLens

    def inputs(self, text: str, pictures: list[Image.Image]) -> dict[str, Any]:
        """Hugging Face's own input; `IMAGE` in the text is the family's placeholder."""
        own = FAMILIES[self.family]
        mark = "" if self.family == "blip-2" else own.placeholder or own.marks[0]
        made = dict(self.processor(text=[text.replace("IMAGE", mark)], images=[pictures], return_tensors="pt"))
        made.pop("labels", None)
        return {
            name: value.float() if value.is_floating_point() else value
            for name, value in made.items()
            if isinstance(value, torch.Tensor)
        }

    @torch.no_grad()
    def logits(self, text: str, pictures: list[Image.Image]) -> torch.Tensor:
        return self.plain(**self.inputs(text, pictures)).logits


def noise(seed: int, *, width: int = 96, height: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def wrong_here(family: str) -> bool:
    """Whether this TransformerLens computes this decoder differently from transformers."""
    return family == "aya" and hooked_transformer.is_available()


@pytest.fixture(scope="module", params=list(FAMILIES))
def pair(request, tmp_path_factory):
    if wrong_here(request.param):
        pytest.skip(AYA_NEEDS)
    yield from pair_of(request.param, tmp_path_factory.mktemp(request.param))


def pair_of(family: str, folder: Path) -> Iterator[Pair]:
    plain, processor = build(family, folder)
    model, own = build(family, folder)
    lens = attach_vision(model, processor=own)
    yield Pair(family=family, plain=plain, processor=processor, lens=lens)
    lens.detach()
