"""Known trios, and the errors when their weights are not on this machine."""

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import BeitConfig, BeitModel

from lens_multimodal import attach_vision, presets, save_linear
from lens_multimodal.transformer.loading import load_language_model
from tests.lenses import encoder, hugging_face, linear
from tests.models import random_language_model
from tests.tokenizers import make_tokenizer


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """No Hugging Face cache and no LiMBeR weights, whatever this machine has."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(presets, "LIMBER_WEIGHTS", tmp_path / "limber_weights")


def test_the_embedded_one_comes_first():
    names = presets.names()
    assert names[:2] == ["tiny", "gpt-j-limber-beit"]
    assert len(names) == len(set(names)) == 5
    assert [presets.get(name).name for name in names] == names
    for other in ("gpt-j", 3, None):
        assert presets.get(other) is None


def test_a_language_model_that_is_not_here(tmp_path):
    for name in ("EleutherAI/gpt-j-6b", str(tmp_path), str(tmp_path / "nothing")):
        with pytest.raises(FileNotFoundError) as caught:
            attach_vision(name, vision=encoder(), projection=linear())
        text = str(caught.value)
        where = ("config.json", "tokenizer", "Hugging Face cache", f"hf download {name}")
        for part in (f"no language model '{name}' on this machine", *where):
            assert part in text


def test_a_language_model_without_its_tokenizer(tmp_path):
    random_language_model("gpt-j").save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        load_language_model(tmp_path)


@pytest.mark.parametrize("damage", ["cut weights", "cut config", "no model"])
def test_a_damaged_language_model(tmp_path, damage):
    random_language_model("gpt-j").save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    if damage == "cut weights":
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "cut config":
        (tmp_path / "config.json").write_text('{"model_type": ')
    else:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises((FileNotFoundError, ValueError), match=str(tmp_path)):
        load_language_model(tmp_path)


def test_loading_keeps_or_takes_the_precision(tmp_path):
    random_language_model("gpt-j", dtype=torch.bfloat16).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    for asked, found in ((None, torch.bfloat16), (torch.float32, torch.float32)):
        model, tokenizer = load_language_model(tmp_path, dtype=asked)
        assert {p.dtype for p in model.parameters()} == {found}
        assert not any(p.requires_grad for p in model.parameters())
        assert not model.training
        assert tokenizer(" dog")["input_ids"]
    lens = attach_vision(tmp_path, vision=encoder(), projection=linear(), dtype=torch.float32, device="cpu")
    assert {p.dtype for p in lens.model.parameters()} == {torch.float32}
    assert lens.model.cfg.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("beit-large", "microsoft/beit-large-patch16-224-pt22k"),
        ("beit-large-ft", "microsoft/beit-large-patch16-224-pt22k-ft22k"),
        ("nf-resnet50", "timm/nf_resnet50.ra2_in1k"),
        ("vit_tiny_patch16_224.augreg_in21k", "timm/vit_tiny_patch16_224.augreg_in21k"),
        ("vit_tiny_patch16_224", "timm/vit_tiny_patch16_224"),
    ],
)
def test_an_encoder_that_is_not_here(name, file):
    with pytest.raises(FileNotFoundError, match=rf"encoder '{file}'.*hf download {file}"):
        attach_vision(random_language_model("gpt-j"), vision=name, projection=linear())


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_timm_encoder_from_the_cache(file, tmp_path, monkeypatch):
    name = "test_vit.r160_in1k"
    torch.manual_seed(5)
    published = timm.create_model(name, pretrained=False)
    home = tmp_path / "models--timm--test_vit.r160_in1k"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save = save_file if file.endswith(".safetensors") else torch.save
    save(published.state_dict(), snapshot / file)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    loaded = presets.load_vision(name)
    assert loaded.name == name
    for key, value in published.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[key], value), key
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_an_encoder_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"'vit_tinny': .* tiny, .*vit_tiny"):
        presets.load_vision("vit_tinny")
    with pytest.raises(ValueError, match="image encoder 'something/else'"):
        presets.load_vision("something/else")
    with pytest.raises(FileNotFoundError, match=r"config\.json .*BeitModel"):
        presets.load_vision(str(tmp_path))
    hugging_face("gpt-j").save_pretrained(tmp_path / "gpt-j")
    with pytest.raises(ValueError, match=r"BEiT .*gpt-j', .* gptj"):
        presets.load_vision(str(tmp_path / "gpt-j"))


def test_weights_that_are_not_all_there(tmp_path):
    """transformers would fill them with random numbers."""
    hugging_face("gpt-j").transformer.save_pretrained(tmp_path / "headless")
    make_tokenizer(tmp_path / "headless")
    with pytest.raises(ValueError, match=r"headless' .*lm_head\.bias, lm_head\.weight"):
        load_language_model(tmp_path / "headless")
    config = BeitConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    BeitModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "beit")
    weights = {k: v for k, v in load_file(tmp_path / "beit" / "model.safetensors").items() if "cls_token" not in k}
    save_file(weights, tmp_path / "beit" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"beit' .*embeddings\.cls_token"):
        presets.load_vision(str(tmp_path / "beit"))


@pytest.mark.parametrize(
    ("preset", "folder"),
    [
        ("gpt-j-limber-beit", "beit_linear"),
        ("gpt-j-limber-beit-ft", "beit_ft_linear"),
        ("gpt-j-limber-clip", "clip_linear"),
        ("gpt-j-limber-nf-resnet50", "nfrn50_4096_linear"),
    ],
)
def test_projections_of_limber(preset, folder, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        presets.get(preset).projection()
    path = tmp_path / "limber_weights" / folder / "proj.ckpt"
    for part in (str(path), f"limber_weights/{folder}/proj.ckpt", "jmerullo/limber", "projection="):
        assert part in str(caught.value)
    path.parent.mkdir(parents=True)
    save_linear(linear(), path)
    assert torch.equal(presets.get(preset).projection().weight, linear().weight)
    with pytest.raises(FileNotFoundError, match="language model 'EleutherAI/gpt-j-6b'"):
        attach_vision(preset)
