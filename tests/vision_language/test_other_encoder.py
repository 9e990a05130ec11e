"""Another image encoder in a vision-language model, with its own projector or with another map.

The expected logits are those of the untouched Hugging Face model, given the same words and the features of the same
timm encoder, mapped by its own projector or by the other map.
"""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lens_multimodal import attach_vision
from lens_multimodal.prompt.vision_parts import parts_before
from tests.lenses import Sizes, encoder, linear
from tests.vision_language.conftest import AYA_NEEDS, noise, wrong_here
from tests.vision_language.models import build

TEXT = " what is a dog"
EXACT = {"rtol": 0, "atol": 1e-5}

WIDTHS = {
    "llava": 16, "vipllava": 48, "llava-next": 16, "llava-onevision": 16, "internvl": 64, "idefics3": 16, "smolvlm": 16,
    "llama-4": 16, "gemma-3": 16, "paligemma": 16, "paligemma-2": 16, "blip-2": 16,
}  # fmt: skip
"""What each family's own projector takes of an image patch."""

MERGED = {"idefics3": 4, "smolvlm": 4, "gemma-3": 4}
"""Vectors of 16 image patches, for projectors that merge patches."""


def other_encoder(d_vision):
    return encoder(sizes=Sizes(height=32, width=32, d_vision=d_vision, depth=1))


def own_projector(model):
    return list(parts_before(model).values())[-1]


@torch.no_grad()
def expected_logits(plain, vision, projector, prompt, picture):
    """Of the plain model, from word embeddings and the encoder's features."""
    features = vision.module.forward_features(vision.preprocessing([picture]))[:, 1:]
    vectors = projector(features)
    ids = prompt.tokens.masked_fill(prompt.image_mask, 0)
    embedded = plain.get_input_embeddings()(ids).masked_scatter(prompt.image_mask[..., None], vectors)
    text_only = plain.language_model if type(plain).__name__.startswith("Blip2") else plain
    return text_only(inputs_embeds=embedded).logits, vectors[0]


@pytest.mark.parametrize("family", list(WIDTHS))
def test_another_encoder_keeps_the_models_own_projector(family, tmp_path):
    (plain, _), (model, processor) = build(family, tmp_path), build(family, tmp_path)
    vision = other_encoder(WIDTHS[family])
    own = own_projector(model)
    lens = attach_vision(model, vision=vision, processor=processor)
    assert lens.projection.linear is own
    for picture in (noise(0), noise(1, width=40, height=90)):
        prompt = lens.prompt(picture, TEXT)
        assert prompt.image_pos.shape == (1, MERGED.get(family, 16))
        expected, vectors = expected_logits(plain, vision, own_projector(plain), prompt, picture)
        assert_close(prompt.spans[0][0].image.soft_prompt.vectors, vectors, **EXACT)
        assert_close(lens.logits(prompt).detach(), expected, **EXACT)


@pytest.mark.parametrize("family", [*WIDTHS, "mistral3", "aya"])
def test_both_parts_replaced(family, tmp_path):
    if wrong_here(family):
        pytest.skip(AYA_NEEDS)
    (plain, _), (model, processor) = build(family, tmp_path), build(family, tmp_path)
    vision, other = other_encoder(16), linear(16, 24)
    lens = attach_vision(model, vision=vision, projection=other, processor=processor)
    for picture in (noise(0), noise(1, width=40, height=90)):
        prompt = lens.prompt(picture, TEXT)
        expected, vectors = expected_logits(plain, vision, other, prompt, picture)
        assert_close(prompt.spans[0][0].image.soft_prompt.vectors, vectors, **EXACT)
        assert_close(lens.logits(prompt).detach(), expected, **EXACT)
        assert (lens.logits(lens.prompt(noise(7), TEXT)) - expected).abs().max() > 1e-2, "the picture matters"
    found = lens.generate_ids(prompt, max_new_tokens=5)
    ids = []
    while len(ids) < len(found[0]):
        longer = prompt.followed_by(ids)
        ids.append(int(expected_logits(plain, vision, other, longer, picture)[0][0, -1].argmax()))
    assert found[0] == ids


@pytest.mark.parametrize(
    ("family", "d_vision", "error"),
    [
        ("llava", 18, (ValueError, "LlavaMultiModalProjector.*18")),
        ("mistral3", 16, (ValueError, r"Mistral3MultiModalProjector.*image_sizes")),
        ("aya", 16, (TypeError, r"AyaVisionMultiModalProjector.*\[1, 2, 2, 24\]")),
        ("qwen2.5-vl", 16, (ValueError, "Qwen2_5_VL")),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_and_the_model_stays(family, d_vision, error, tmp_path):
    if wrong_here(family):
        pytest.skip(AYA_NEEDS)
    model, processor = build(family, tmp_path)
    modules = {name: id(module) for name, module in model.named_modules()}
    kind, named = error
    with pytest.raises(kind, match=named):
        attach_vision(model, vision=other_encoder(d_vision), processor=processor)
    assert {name: id(module) for name, module in model.named_modules()} == modules
    assert not any(isinstance(module, nn.Module) and module._forward_hooks for module in model.modules())
