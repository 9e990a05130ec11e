"""What attach_vision takes and refuses, chat templates, captions, and lenses on disk."""

import pytest
import torch
import transformers as hf
from torch.testing import assert_close

from lens_multimodal import attach_vision, save_linear
from lens_multimodal.prompt.vision_parts import parts_before
from lens_multimodal.transformer.vision_language_models import text_decoder
from lens_multimodal.vision_language import NotFromVectorsAlone
from tests.lenses import unchecked
from tests.vision_language import models
from tests.vision_language.conftest import Pair, noise
from tests.vision_language.models import build

EXACT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def llava(tmp_path):
    return build("llava", tmp_path)


def hugging_face_logits(model, processor, text, picture):
    with torch.no_grad():
        return model(**processor(text=[text], images=[[picture]], return_tensors="pt")).logits


def test_the_decoder_shares_every_weight(llava):
    model, _ = llava
    decoder = text_decoder(model)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in decoder.parameters()} <= own
    assert decoder.lm_head is model.lm_head
    assert decoder.model is model.model.language_model


def test_a_folder_written_by_hugging_face(llava, tmp_path):
    model, processor = llava
    model.save_pretrained(tmp_path / "folder")
    processor.save_pretrained(tmp_path / "folder")
    expected = hugging_face_logits(model, processor, "<image> a dog", noise(0))
    lens = attach_vision(tmp_path / "folder")
    assert_close(lens.logits(lens.prompt(noise(0), " a dog")).detach(), expected, **EXACT)
    assert not any(weight.requires_grad for part in lens.images.parts.values() for weight in part.parameters())


def test_a_folder_without_its_processor_is_named(llava, tmp_path):
    llava[0].save_pretrained(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="folder"):
        attach_vision(tmp_path / "folder")


def test_a_model_without_its_processor_is_refused(llava):
    with pytest.raises(ValueError, match="processor"):
        attach_vision(llava[0])


@pytest.mark.filterwarnings("ignore:Hook alias")
def test_a_bridge_around_the_whole_model(llava):
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model, processor = llava
    expected = hugging_face_logits(model, processor, "<image> a dog", noise(0))
    bridge = build_bridge_from_module(
        model, "LlavaForConditionalGeneration", hf_config=model.config, tokenizer=None
    ).eval()
    lens = attach_vision(bridge, processor=processor)
    assert lens.model is bridge
    assert_close(lens.logits(lens.prompt(noise(0), " a dog")).detach(), expected, rtol=0, atol=1e-4)


def another_projector(model):
    """A random map of the features that this model's own projector takes."""
    widths = [layer.in_features for layer in projector_of(model).modules() if isinstance(layer, torch.nn.Linear)]
    torch.manual_seed(5)
    return torch.nn.Linear(widths[0], 24).requires_grad_(False)


def projector_of(model):
    return list(parts_before(model).values())[-1]


@pytest.mark.parametrize(
    "family", ["llava", "vipllava", "llava-next", "llava-onevision", "internvl", "blip-2", "llama-4"]
)
def test_another_projection_alone(family, tmp_path):
    """Logits and tokens of the model in which it was put by hand; the model given keeps its own."""
    (by_hand, processor), (model, own) = build(family, tmp_path), build(family, tmp_path)
    other = another_projector(by_hand)
    name = list(parts_before(by_hand))[-1]
    before = projector_of(model)
    setattr(by_hand.model if hasattr(by_hand, "model") else by_hand, name, other)
    lens = attach_vision(model, projection=other, processor=own)
    pair = Pair(family=family, plain=by_hand, processor=processor, lens=lens)
    for picture in (noise(0), noise(1, width=40, height=90)):
        prompt = lens.prompt(picture, " what is a dog")
        expected = pair.logits("IMAGE what is a dog", [picture])
        assert_close(lens.logits(prompt).detach(), expected, **EXACT)
    assert lens.images.projector is other
    assert projector_of(model) is before
    if family == "blip-2":  # whose own is a linear map too
        lens.save_pretrained(tmp_path / "saved")
        again = attach_vision(tmp_path / "saved", processor=own)
        twin = again.prompt(noise(1, width=40, height=90), " what is a dog")
        assert_close(again.logits(twin).detach(), expected, **EXACT)
    else:
        with pytest.raises(ValueError, match=r"Linear.*lens\.images\.projector"):
            lens.save_pretrained(tmp_path / "saved")


def test_another_projection_from_a_file(llava, tmp_path):
    model, processor = llava
    other = another_projector(model)
    save_linear(other, tmp_path / "proj.ckpt")
    lens = attach_vision(model, projection=tmp_path / "proj.ckpt", processor=processor)
    assert torch.equal(lens.images.projector.weight, other.weight)


def test_a_projection_that_does_not_fit_alone(llava):
    model, processor = llava
    modules = {name: id(module) for name, module in model.named_modules()}
    for wrong, named in ((torch.nn.Linear(17, 24), r"17.*16"), (torch.nn.Linear(16, 23), r"23.*24")):
        with pytest.raises(ValueError, match=named):
            attach_vision(model, projection=wrong, processor=processor)
    with pytest.raises(TypeError, match="projection"):
        unchecked(attach_vision)(model, projection=3, processor=processor)
    assert {name: id(module) for name, module in model.named_modules()} == modules


@pytest.mark.parametrize("family", ["smolvlm", "mistral3"])
def test_a_map_in_the_place_of_a_projector_that_merges_patches(family, tmp_path):
    model, processor = build(family, tmp_path)
    with pytest.raises(ValueError, match=rf"{type(projector_of(model)).__name__}.*Linear|width"):
        attach_vision(model, projection=another_projector(model), processor=processor)


def test_a_saved_lens_is_a_hugging_face_folder(llava, tmp_path):
    model, processor = llava
    expected = hugging_face_logits(model, processor, "<image> a dog", noise(0))
    lens = attach_vision(model, processor=processor)
    lens.save_pretrained(tmp_path / "saved")
    again = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / "saved").eval()
    assert_close(hugging_face_logits(again, processor, "<image> a dog", noise(0)), expected, **EXACT)
    loaded = attach_vision(tmp_path / "saved")
    assert_close(loaded.logits(loaded.prompt(noise(0), " a dog")).detach(), expected, **EXACT)
    with pytest.raises(FileExistsError):
        lens.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="whole"):
        lens.save_pretrained(tmp_path / "other", without=["vision"])


# --- chat ------------------------------------------------------------------------------------------------


def test_a_chat_prompt_is_the_processors_own(pair):
    if pair.processor.chat_template is None:
        with pytest.raises(ValueError, match="template"):
            pair.lens.chat(noise(0), "what is in the picture")
        assert pair.lens.caption_text == "A picture of"
        return
    question = "what is in the picture"
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    written = pair.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    expected = pair.processor(text=[written], images=[[noise(0)]], return_tensors="pt")["input_ids"][0]
    prompt = pair.lens.chat_prompt(noise(0), question)
    own = prompt.tokens[0].clone()
    own[prompt.image_mask[0]] = pair.lens.images.image_token_id
    assert own.tolist() == expected.tolist()
    assert own.tolist().count(1) == 1  # one beginning-of-sequence token


def test_an_answer_is_what_hugging_face_writes(pair):
    if pair.processor.chat_template is None:
        pytest.skip("no chat template")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is a dog"}]}]
    written = pair.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    made = pair.processor(text=[written], images=[[noise(0)]], return_tensors="pt")
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in made.items() if isinstance(v, torch.Tensor)}
    out = pair.plain.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)
    expected = pair.processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert pair.lens.chat(noise(0), "what is a dog", max_new_tokens=6) == expected.strip()


def test_a_caption_asks_in_the_models_own_template(pair):
    said = pair.lens.caption(noise(0), max_new_tokens=5)
    assert said == pair.lens.caption(noise(0), pair.lens.caption_text, max_new_tokens=5)
    assert (pair.lens.caption_text == "A picture of") == (pair.processor.chat_template is None)


def test_one_bos_whatever_prepend_bos_says(pair):
    for prepend_bos, count in ((None, 1), (True, 1), (False, 0)):
        prompt = pair.lens.prompt(noise(0), " a dog", prepend_bos=prepend_bos)
        assert prompt.tokens[0].tolist().count(1) == count


def test_vectors_without_a_picture_stand_as_they_are(pair):
    vectors = torch.randn(2, 3, pair.lens.shape.d_model)
    prompt = pair.lens.prompt_from_vectors(vectors, " a dog")
    assert prompt.image_pos.shape == (2, 3)
    assert prompt.grid == (1, 3)


# --- refused ---------------------------------------------------------------------------------------------


def test_a_model_with_image_features_inside_its_decoder_is_refused_and_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setitem(models.FAMILIES, "qwen3-vl", models.QWEN_3_VL)
    model, processor = build("qwen3-vl", tmp_path)
    modules = {name: id(module) for name, module in model.named_modules()}
    before = model.config.to_dict()
    with pytest.raises(NotFromVectorsAlone, match="deepstack"):
        attach_vision(model, processor=processor)
    assert {name: id(module) for name, module in model.named_modules()} == modules
    assert model.config.to_dict() == before
    assert model.model.rope_deltas is None
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
