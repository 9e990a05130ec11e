"""A model that accelerate has spread over devices by layer gives the same numbers as one that is in one place.

Here every part lies on the CPU; what is tested is that prompts, hooks, attribution and generation go through the hooks
with which accelerate moves activations between devices.
"""

import pytest
import torch
from accelerate import dispatch_model

from lens_multimodal import attach_vision
from lens_multimodal.analysis import decode_neurons, top_neurons
from lens_multimodal.hooks import ablate
from tests.lenses import encoder, linear, picture
from tests.models import random_language_model

BLOCKS = [f"transformer.h.{i}" for i in range(3)]
PARTS = ["transformer.wte", "transformer.drop", *BLOCKS, "transformer.ln_f", "lm_head"]


@pytest.fixture(scope="module")
def lenses(tokenizers):
    spread = dispatch_model(random_language_model("gpt-j"), dict.fromkeys(PARTS, "cpu"), force_hooks=True)
    assert all(hasattr(block, "_hf_hook") for block in spread.transformer.h)
    parts = {"vision": encoder(), "projection": linear(), "tokenizer": tokenizers("gpt-j")}
    return attach_vision(spread, **parts), attach_vision(random_language_model("gpt-j"), **parts)


def test_the_same_numbers(lenses):
    results = []
    for lens in lenses:
        prompt = lens.prompt(picture(), " a dog")
        found = top_neurons(lens.model, prompt.tokens, 11, prompt.image_pos[0], top_k=30)
        with torch.no_grad(), lens.model.hooks(fwd_hooks=ablate(found, lens.model, positions=prompt.image_pos[0])):
            ablated = lens.logits(prompt)
        with torch.no_grad():
            results.append((lens.logits(prompt), ablated, found, lens.caption(picture(), max_new_tokens=5)))
        assert len(decode_neurons(lens.model, found.head(3))) == 3
    (logits, ablated, found, caption), (expected, expected_ablated, expected_found, expected_caption) = results
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(ablated, expected_ablated)
    assert (logits - ablated).abs().max() > 1e-3
    assert found[["layer", "neuron", "pos"]].equals(expected_found[["layer", "neuron", "pos"]])
    assert caption == expected_caption
