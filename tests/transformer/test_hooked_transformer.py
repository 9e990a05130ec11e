"""GPT-J as a `HookedTransformer` against `transformers`."""

import pytest
import torch

from lens_multimodal import attach_vision, transformer
from lens_multimodal.transformer.hooked_transformer import hooked_gpt_j
from tests.lenses import encoder, hugging_face, linear, picture, plain_logits, unchecked
from tests.models import MODEL_CLASSES

needs_hooked = pytest.mark.skipif("hooked" not in MODEL_CLASSES, reason="TransformerLens 4 has no HookedTransformer")


@needs_hooked
@pytest.mark.parametrize("process_weights", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_logits_equal_transformers(process_weights, dtype, capfd):
    plain = hugging_face("gpt-j", dtype)
    capfd.readouterr()
    model = hooked_gpt_j(plain, process_weights=process_weights)
    assert capfd.readouterr().out == ""
    tokens = torch.arange(3, 40)[None]
    found, expected = model(tokens), plain(tokens).logits
    if process_weights:
        found, expected = found.log_softmax(-1), expected.log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert found.dtype == dtype
    assert transformer.weight_processing(model) == ("fold_ln" if process_weights else "none")


@needs_hooked
@torch.no_grad()
def test_images_under_processed_weights(tokenizers):
    plain = hugging_face("gpt-j")
    model = hooked_gpt_j(plain, process_weights=True, tokenizer=tokenizers("gpt-j"))
    lens = attach_vision(model, vision=encoder(), projection=linear(), tokenizer=tokenizers("gpt-j"))
    prompt = lens.prompt(picture())
    (expected,) = plain_logits(plain, prompt)
    torch.testing.assert_close(lens.logits(prompt)[0].log_softmax(-1), expected.log_softmax(-1), rtol=1e-4, atol=1e-4)
    assert "fold_ln" in repr(lens)


@needs_hooked
def test_without_a_tokenizer_of_its_own(tokenizers, lens_of):
    lens = attach_vision(
        hooked_gpt_j(hugging_face("gpt-j")), vision=encoder(), projection=linear(), tokenizer=tokenizers("gpt-j")
    )
    assert lens.model.tokenizer is None
    assert lens.caption(picture()) == lens_of("gpt-j", "bridge").caption(picture())


@needs_hooked
def test_the_given_model_stays_as_it_is():
    plain = hugging_face("gpt-j")
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    model = hooked_gpt_j(plain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


@needs_hooked
def test_other_architectures_are_refused():
    with pytest.raises(TypeError, match=r"GPTJForCausalLM.* GPT2LMHeadModel$"):
        unchecked(hooked_gpt_j)(hugging_face("gpt-2"))


def test_without_hooked_transformer(monkeypatch):
    monkeypatch.setattr("lens_multimodal.transformer.hooked_transformer.is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"HookedTransformer.* 4\.0.*TransformerBridge"):
        hooked_gpt_j(hugging_face("gpt-j"))
