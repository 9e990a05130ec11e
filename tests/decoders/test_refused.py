"""What cannot be right for a family is refused with a reason, and the given model is unchanged."""

import pytest
import torch

from lens_multimodal import attach_vision
from tests.decoders.cases import REFUSED, refusal, tokenizer
from tests.decoders.families import FAMILIES
from tests.decoders.family import D_MODEL
from tests.decoders.plain_models import plain, twin
from tests.lenses import encoder, linear


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    model, dtype = twin(name), FAMILIES[name].dtype
    modules = dict(model.named_modules())
    with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
        attach_vision(
            model, vision=encoder(dtype), projection=linear(d_model=D_MODEL, dtype=dtype), tokenizer=tokenizer()
        )
    assert refusal(name).shown in str(error.value)
    assert dict(model.named_modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(tokens).logits, plain(name)(tokens).logits)
