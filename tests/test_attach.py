"""`attach_vision`: what it takes, and its errors for what it cannot take."""

import pytest
import torch
from torch import nn

from lens_multimodal import Preprocessing, VisionEncoder, attach, attach_vision, save_linear, transformer
from lens_multimodal.prompt.virtual_tokens import attached_to
from tests.lenses import D_MODEL, D_VISION, encoder, hugging_face, linear, make_lens, picture, plain_logits, unchecked
from tests.models import LAYOUTS, MODEL_CLASSES, random_language_model, wrapped_model
from tests.tokenizers import make_tokenizer


@pytest.fixture
def parts(tokenizers):
    return {"vision": encoder(), "projection": linear(), "tokenizer": tokenizers("gpt-j")}


# --- what it takes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hugging_face_model_or_its_folder(layout, tokenizers, tmp_path):
    plain = hugging_face(layout)
    plain.save_pretrained(tmp_path)
    make_tokenizer(tmp_path, layout)
    for given in (random_language_model(layout), str(tmp_path), tmp_path):
        tokenizer = None if given in (str(tmp_path), tmp_path) else tokenizers(layout)
        lens = attach_vision(given, vision=encoder(), projection=linear(), tokenizer=tokenizer)
        prompt = lens.prompt(picture(), " a dog")
        (expected,) = plain_logits(plain, prompt)
        torch.testing.assert_close(lens.logits(prompt)[0].detach(), expected, rtol=1e-5, atol=5e-5)
        assert isinstance(lens.caption(picture()), str)
        # The bridge has the tokenizer as well, so TransformerLens' own functions take text.
        assert lens.model.to_tokens(" a dog", prepend_bos=False).tolist() == [lens.text.encode(" a dog")]
        assert lens.model.tokenizer.eos_token_id == 0


def test_no_copy_of_the_weights(parts):
    model = random_language_model("gpt-j")
    pointers = {p.data_ptr() for p in model.parameters()}
    lens = attach_vision(model, **parts)
    assert {p.data_ptr() for p in lens.model.parameters()} == pointers


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_a_transformer_lens_model_is_used_as_it_is(kind, parts):
    model = wrapped_model(kind, hugging_face("gpt-j"), tokenizer=parts["tokenizer"])
    lens = attach_vision(model, vision=parts["vision"], projection=parts["projection"])
    assert lens.model is model
    assert lens.tokenizer is model.tokenizer
    assert isinstance(lens.caption(picture()), str)


def test_a_tokenizer_that_was_never_saved(parts):
    from transformers import PreTrainedTokenizerFast

    parts["tokenizer"] = PreTrainedTokenizerFast(
        tokenizer_object=parts["tokenizer"].backend_tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    lens = attach_vision(random_language_model("gpt-j"), **parts)
    assert lens.model.to_tokens(" dog", prepend_bos=False).tolist() == [lens.text.encode(" dog")]
    assert lens.model.to_tokens(" dog", prepend_bos=True).tolist() == [[0, *lens.text.encode(" dog")]]


def test_projections_from_files(parts, tmp_path):
    expected = None
    for name in ("proj.ckpt", "proj.safetensors"):
        save_linear(parts["projection"], tmp_path / name)
        lens = attach_vision(random_language_model("gpt-j"), **{**parts, "projection": tmp_path / name})
        logits = lens.logits(lens.prompt(picture()))
        assert expected is None or torch.equal(logits, expected)
        expected = logits


def test_any_module_as_encoder_and_projection(parts):
    vision = VisionEncoder(nn.Conv2d(3, 5, 8, stride=8), preprocessing=Preprocessing(height=16, width=32))
    deep = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, D_MODEL))
    lens = attach_vision(random_language_model("gpt-j"), **{**parts, "vision": vision, "projection": deep})
    assert lens.prompt(picture()).grid == (2, 4)
    assert isinstance(lens.caption(picture()), str)


def test_one_pooled_vector_over_two_positions(parts):
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 5, 1))
    vision = VisionEncoder(pooled, preprocessing=Preprocessing(height=16, width=16))
    lens = attach_vision(random_language_model("gpt-j"), **{**parts, "vision": vision, "projection": linear(5, 48)})
    prompt = lens.prompt(picture())
    assert prompt.image_pos.tolist() == [[0, 1]]
    assert prompt.grid == (1, 2)


def test_a_processed_bridge(parts):
    model = wrapped_model("bridge", hugging_face("gpt-j"), tokenizer=parts["tokenizer"])
    model.enable_compatibility_mode()
    lens = attach_vision(model, vision=parts["vision"], projection=parts["projection"])
    prompt = lens.prompt(picture())
    (expected,) = plain_logits(hugging_face("gpt-j"), prompt)
    torch.testing.assert_close(
        lens.logits(prompt)[0].detach().log_softmax(-1), expected.log_softmax(-1), rtol=1e-4, atol=2e-4
    )
    assert "weight processing: processed" in repr(lens)


def test_attached_under_inference_mode(parts, tmp_path):
    random_language_model("gpt-j").save_pretrained(tmp_path)
    make_tokenizer(tmp_path, "gpt-j")
    with torch.inference_mode():
        lens = attach_vision(tmp_path, vision=parts["vision"], projection=parts["projection"])
        prompt = lens.prompt(picture(), with_gradient=True)
    lens.logits(prompt).sum().backward()
    assert prompt.spans[0][0].image.soft_prompt.vectors.grad.abs().max() > 0


def test_it_prints_nothing(parts, capfd):
    for kind in MODEL_CLASSES:
        model = wrapped_model(kind, hugging_face("gpt-j"), tokenizer=parts["tokenizer"])
        capfd.readouterr()
        lens = attach_vision(model, **parts, device="cpu", dtype=torch.float32)
        lens.caption([picture(0), picture(1)])
        shown = capfd.readouterr()
        assert shown.out == shown.err == ""


# --- what it cannot take -----------------------------------------------------------------------------------


def test_widths_are_checked_at_once(parts):
    model = random_language_model("gpt-j")
    with pytest.raises(ValueError, match=rf"width 11\b.*d_vision={D_VISION}:"):
        attach_vision(transformer.wrap(model), **{**parts, "projection": linear(11, D_MODEL)})
    bridge = wrapped_model("bridge", hugging_face("gpt-j"))
    for width in (25, 12, 48, 2 * 4096):
        with pytest.raises(ValueError, match=rf"width {width}\b.*d_model={D_MODEL}:"):
            attach_vision(bridge, **{**parts, "projection": linear(D_VISION, width)})
    assert attached_to(transformer.embedding_module(bridge)) is None
    attach_vision(bridge, **parts)


def test_parts_that_are_missing(parts):
    with pytest.raises(ValueError, match=r"vision and projection.* model"):
        attach_vision(vision=parts["vision"], projection=parts["projection"])
    with pytest.raises(ValueError, match=r"vision=\.\.\."):
        attach_vision(random_language_model("gpt-j"), projection=parts["projection"])
    with pytest.raises(ValueError, match=r"projection=\.\.\..*lens_multimodal\.train"):
        attach_vision(random_language_model("gpt-j"), vision=parts["vision"])


def test_parts_of_another_kind(parts):
    with pytest.raises(TypeError, match=r"model.* int; .*attach_vision\(\)"):
        unchecked(attach._language_model)(3, None, device=None, dtype=None)
    with pytest.raises(TypeError, match=r"encoder.* timm.* int$"):
        unchecked(attach._vision)(3, None)
    with pytest.raises(TypeError, match=r"projection.*nn\.Linear.* Tensor$"):
        unchecked(attach._linear)(torch.zeros(24, 10), None)
    with pytest.raises(TypeError, match=r"Hugging Face .* Linear$"):
        attach_vision(nn.Linear(2, 2), **parts)


def test_the_language_model_and_the_encoder_swapped(parts):
    with pytest.raises(TypeError, match=r"Hugging Face .* VisionEncoder$"):
        attach_vision(parts["vision"], vision=parts["vision"], projection=parts["projection"])


def test_a_hugging_face_model_twice(parts):
    model = random_language_model("gpt-j")
    attach_vision(model, **parts)
    with pytest.raises(ValueError, match=r"GPTJForCausalLM .*TransformerBridge"):
        attach_vision(model, **parts)


def test_an_encoder_without_known_preprocessing(parts):
    with pytest.raises(ValueError, match=r"Conv2d .*VisionEncoder\(module, preprocessing="):
        attach_vision(random_language_model("gpt-j"), **{**parts, "vision": nn.Conv2d(3, 10, 8, stride=8)})


def test_another_release_of_transformer_lens(parts, monkeypatch):
    monkeypatch.setattr("lens_multimodal.transformer.accepted_models.version", lambda _name: "2.18.0")
    with pytest.raises(RuntimeError, match=r"transformer-lens 2\.18\.0 "):
        attach_vision(random_language_model("gpt-j"), **parts)


def test_a_failed_attach_leaves_nothing_behind(parts):
    model = wrapped_model("bridge", hugging_face("gpt-j"))
    with torch.no_grad():
        transformer.w_out(model, 1).zero_()  # the neurons of a layer have no say
    with pytest.raises(RuntimeError, match=r"blocks\.1\.mlp\.hook_pre, blocks\.1\.mlp\.hook_post of"):
        attach_vision(model, **parts)
    assert attached_to(transformer.embedding_module(model)) is None


def test_lens_of_another_model_class_gives_the_same_logits(parts):
    found = []
    for kind in MODEL_CLASSES:
        lens = make_lens("gpt-j", kind, tokenizer=parts["tokenizer"])
        found.append(lens.logits(lens.prompt(picture())).detach())
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], rtol=1e-5, atol=5e-5)
