"""A lens on each family, one prompt of image vectors and words, and the tolerance."""

import atexit
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lens_multimodal import ImagePrompt, VisionLens, attach_vision
from tests.decoders.families import FAMILIES
from tests.decoders.family import D_MODEL, N_LAYERS, Refusal
from tests.decoders.plain_models import plain, twin
from tests.decoders.plain_runs import activations, embedded
from tests.lenses import encoder, linear
from tests.tokenizers import make_tokenizer

TOLERANCE = 1e-5
"""Largest difference, relative to the largest value. The models are float64, but some norms of transformers compute in
float32, where TransformerLens does not."""
TOKEN, OTHER = 50, 20
"""The token that is explained, and one that it is compared with."""
WORDS = [11, 42, 7, 90, 33]
N_VECTORS = 6


def refusal(name: str) -> Refusal | None:
    """Why the lens on the installed TransformerLens refuses a family, if it does."""
    family = FAMILIES[name]
    return family.refused or (family.refused_by_3 if version("transformer-lens").startswith("3.") else None)


WORKING = [name for name in FAMILIES if refusal(name) is None]
REFUSED = [name for name in FAMILIES if refusal(name) is not None]
each_family = pytest.mark.parametrize("name", WORKING)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A lens, and the same prompt for it and for plain transformers. Tests leave the lens as it is."""

    name: str
    lens: VisionLens
    prompt: ImagePrompt
    embeds: Tensor

    @property
    def last(self) -> int:
        return self.embeds.shape[1] - 1

    def active_neurons(self, layer: int, count: int = 4) -> list[int]:
        """Those that are most active anywhere in the prompt."""
        return activations(self.name, self.embeds)[layer].abs().amax(0).topk(count).indices.tolist()


@cache
def case(name: str) -> Case:
    lens = new_lens(name)
    vectors = image_vectors(name)
    prompt = lens.prompt_from_vectors(vectors, "", prepend_bos=False).followed_by(WORDS)
    return Case(name=name, lens=lens, prompt=prompt, embeds=embedded(name, vectors, torch.tensor([WORDS])))


def new_lens(name: str, dtype: torch.dtype | None = None) -> VisionLens:
    dtype = dtype or FAMILIES[name].dtype
    vision, projection = encoder(dtype), linear(d_model=D_MODEL, dtype=dtype)
    return attach_vision(twin(name).to(dtype), vision=vision, projection=projection, tokenizer=tokenizer())


def image_vectors(name: str, *, count: int = 1) -> Tensor:
    """As large as the family's embeddings."""
    noise = torch.randn(count, N_VECTORS, D_MODEL, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    size = plain(name).get_input_embeddings()(torch.tensor(WORDS)).std()
    return (noise * size).to(FAMILIES[name].dtype)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return make_tokenizer(Path(folder.name) / "tokenizer", "gpt-j")


def difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} against {tuple(expected.shape)}"
    size = float(expected.detach().abs().max())
    assert size > 1e-3, "nothing to compare"
    assert bool(actual.isfinite().all()), "not finite"
    return float((actual - expected).detach().abs().max()) / size


def assert_exact(measured: dict[str, float]) -> None:
    wrong = {quantity: value for quantity, value in measured.items() if not value <= TOLERANCE}
    assert not wrong, wrong


layers = range(N_LAYERS)
