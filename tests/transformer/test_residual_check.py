"""A decoder that changes its residual stream outside any module is refused, and the error says where."""

import pytest
import torch

from lens_multimodal.transformer.accepted_models import wrap
from lens_multimodal.transformer.residual_check import UnknownResidualStream
from lens_multimodal.transformer.self_check import self_check
from tests.models import random_language_model, wrapped_model


@pytest.mark.parametrize("layout", ["llama", "gpt-j", "pythia"])
def test_what_every_family_here_does_is_accepted(layout):
    self_check(wrapped_model("bridge", random_language_model(layout)))


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("model.layers.1.mlp", "block 1"),
        ("model.layers.1", "block 1"),
        ("model", "the logits"),
    ],
)
def test_a_hidden_multiplier_is_refused(place, told):
    """As Falcon-H1's multipliers of MLP and logits, and Gemma 4's of a whole block: inside the forward code."""
    language_model = random_language_model("llama")
    module = language_model.get_submodule(place)
    own_forward = module.forward

    def halved(*args, **kwargs):
        output = own_forward(*args, **kwargs)
        if isinstance(output, torch.Tensor):
            return 0.5 * output
        output.last_hidden_state = 0.5 * output.last_hidden_state
        return output

    module.forward = halved
    with pytest.raises(UnknownResidualStream, match=told):
        self_check(wrap(language_model))
