"""Under dropout every result is random, so no pass of the library runs: not one of words, nor one under hooks."""

import pytest
import torch

from lens_multimodal import VisionLens, ablate, attach_vision
from lens_multimodal.analysis import effects_of
from tests.lenses import encoder, linear, picture
from tests.models import random_language_model, wrapped_model

SHARES = {"gpt-2": ("attn_pdrop", 0.1), "llama": ("attention_dropout", 0.3), "opt": ("dropout", 0.3)}
"""GPT-2 has modules of dropout; Llama and OPT call a function."""


@pytest.fixture(params=SHARES)
def dropping(request, tokenizers) -> VisionLens:
    """A lens on a model whose dropout is not zero."""
    name, share = SHARES[request.param]
    language_model = random_language_model(request.param)
    setattr(language_model.config, name, share)
    model = wrapped_model("bridge", language_model)
    return attach_vision(model, vision=encoder(), projection=linear(), tokenizer=tokenizers(request.param))


def runs(lens: VisionLens) -> dict:
    prompt = lens.prompt(picture())
    last = prompt.tokens.shape[1] - 1
    return {
        "caption": lambda: lens.generate(prompt, max_new_tokens=3),
        "logits": lambda: lens.logits(prompt),
        "attribution": lambda: lens.neurons(prompt, 8, top_k=2),
        "effects": lambda: effects_of(lens.model, prompt.tokens, [ablate(lens.model, [(0, 1)], positions=last)], 8),
    }


@pytest.mark.parametrize("name", ["caption", "logits", "attribution", "effects"])
def test_it_is_refused_in_training_mode_only(dropping, name):
    run = runs(dropping)[name]
    run()
    dropping.model.original_model.train()
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"dropout is on .*p=0\.[13].*model\.eval"):
        run()
    assert torch.equal(torch.get_rng_state(), before)
    dropping.model.original_model.eval()
    run()
