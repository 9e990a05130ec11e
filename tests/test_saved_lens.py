"""A saved lens is the same lens; damaged, foreign or incomplete folders are refused."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from transformers import GenerationConfig

from lens_multimodal import VisionEncoder, VisionLens, attach_vision
from lens_multimodal.image import encoder_config
from lens_multimodal.transformer.to_hugging_face import to_hugging_face
from tests.lenses import SQUARE, encoder, linear, picture, random_lens
from tests.models import MODEL_CLASSES, random_language_model, wrapped_model
from tests.tokenizers import word_tokenizer

PICTURES = [picture(seed) for seed in range(3)]


def same(one: VisionLens, other: VisionLens) -> None:
    """Equal to the bit: logits and captions of pictures."""
    prompts = [lens.prompt(PICTURES, " big dog") for lens in (one, other)]
    first, second = (lens.logits(prompt) for lens, prompt in zip((one, other), prompts, strict=True))
    assert torch.equal(first, second)
    captions = one.caption(PICTURES, " big", max_new_tokens=8)
    assert captions == other.caption(PICTURES, " big", max_new_tokens=8)
    assert len(set(captions)) > 1


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> VisionLens:
    return random_lens(tmp_path_factory.mktemp("words"))


@pytest.fixture
def saved_once(lens: VisionLens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.getbasetemp() / "saved_once"
    if not home.exists():
        lens.save_pretrained(home)
    return home


@pytest.fixture
def folder(saved_once: Path, tmp_path: Path) -> Path:
    """A copy for the test to damage."""
    return Path(shutil.copytree(saved_once, tmp_path / "lens"))


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_round_trip_to_the_bit(kind: str, tmp_path: Path) -> None:
    lens = random_lens(tmp_path, kind=kind, seed=3)
    lens.save_pretrained(tmp_path / "lens")
    again = attach_vision(tmp_path / "lens")
    assert type(again.model) is type(lens.model)
    assert getattr(again.model, "compatibility_mode", False) == getattr(lens.model, "compatibility_mode", False)
    same(lens, again)
    same(lens, attach_vision(str(tmp_path / "lens")))


@pytest.mark.parametrize("layout", ["gpt-2", "llama"])
def test_other_layouts(layout: str, tmp_path: Path) -> None:
    lens = random_lens(tmp_path, layout=layout)
    lens.save_pretrained(tmp_path / "lens")
    same(lens, attach_vision(tmp_path / "lens"))


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_end_tokens_of_the_generation_settings(kind: str, tmp_path: Path) -> None:
    """Also of settings that transformers loads and does not save, such as a temperature without sampling."""
    for given in ({}, {"temperature": 0.5, "do_sample": False}):
        language_model = random_language_model()
        language_model.generation_config = GenerationConfig(eos_token_id=[0, 5, 4000], bos_token_id=3, **given)
        lens = attach_vision(
            wrapped_model(kind, language_model),
            vision=encoder(sizes=SQUARE),
            projection=linear(SQUARE.d_vision),
            tokenizer=word_tokenizer(tmp_path / "words"),
        )
        assert lens.text.end_ids == [0, 5]
        folder = tmp_path / f"with {len(given)} settings"
        lens.save_pretrained(folder)
        assert attach_vision(folder).text.end_ids == [0, 5]
        assert json.loads((folder / "language" / "generation_config.json").read_text())["bos_token_id"] == 3


def test_saving_leaves_the_lens_as_it_is(lens: VisionLens, tmp_path: Path) -> None:
    before = lens.logits(lens.prompt(PICTURES))
    lens.save_pretrained(tmp_path / "lens")
    assert torch.equal(lens.logits(lens.prompt(PICTURES)), before)


def test_folder_is_read_by_others(folder: Path) -> None:
    """Hugging Face reads the language model, LiMBeR's loader the projection, timm's Beit the encoder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "language")
    for name, tensor in random_language_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert AutoTokenizer.from_pretrained(folder / "language")(" dog")["input_ids"]
    state = torch.load(folder / "proj.ckpt", weights_only=True)
    assert torch.equal(state["weight"], linear(SQUARE.d_vision).weight)
    assert torch.equal(state["bias"], linear(SQUARE.d_vision).bias)
    card = json.loads((folder / "lens.json").read_text())
    assert card["weight_processing"] == "none"
    assert card["format"] == 1
    assert "random BEiT" in (folder / "README.md").read_text()


def test_saved_again_from_the_loaded_lens(folder: Path, lens: VisionLens, tmp_path: Path) -> None:
    attach_vision(folder).save_pretrained(tmp_path / "second")
    same(lens, attach_vision(tmp_path / "second"))


def test_half_precision_stays(tmp_path: Path) -> None:
    lens = random_lens(tmp_path)
    for part in (lens.model, lens.vision, lens.projection):
        part.to(torch.bfloat16)
    lens.save_pretrained(tmp_path / "lens")
    again = attach_vision(tmp_path / "lens")
    assert next(again.vision.parameters()).dtype == next(again.model.parameters()).dtype == torch.bfloat16
    assert again.projection.linear.weight.dtype == torch.bfloat16
    same(lens, again)


@pytest.mark.parametrize("part", ["vision", "projection"])
def test_left_out_parts_are_asked_for(part: str, lens: VisionLens, tmp_path: Path) -> None:
    lens.save_pretrained(tmp_path / "lens", without=[part])
    with pytest.raises(ValueError, match=rf"lens'.* {part}: .*{part}=\.\.\."):
        attach_vision(tmp_path / "lens")
    given = {"vision": encoder(sizes=SQUARE)} if part == "vision" else {"projection": linear(SQUARE.d_vision)}
    same(lens, attach_vision(tmp_path / "lens", **given))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t"])
def test_any_timm_encoder_by_name(name: str) -> None:
    options = {"img_size": 32} if name.startswith("vit") else {}
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    described = json.loads(json.dumps(encoder_config.describe(module, height=32, width=32)))
    twin = encoder_config.build(described)
    twin.load_state_dict(module.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(twin.forward_features(pixels), module.forward_features(pixels))


def test_changed_or_foreign_encoder_says_what_to_do(lens: VisionLens) -> None:
    changed = encoder(sizes=SQUARE).module
    changed.blocks[1].mlp.act = nn.ReLU()
    with pytest.raises(ValueError, match=r"timm .*without=\['vision'\]"):
        encoder_config.describe(changed, height=SQUARE.height, width=SQUARE.width)
    foreign = nn.Conv2d(3, 20, 8, 8)
    found = VisionEncoder(foreign, preprocessing=lens.vision.preprocessing)
    with pytest.raises(ValueError, match=r"Conv2d .*attach_vision\(folder, vision=...\)"):
        encoder_config.describe(found.module, height=SQUARE.height, width=SQUARE.width)


def test_description_of_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image encoder.*no_such_encoder"):
        encoder_config.build({"timm": {"name": "no_such_encoder", "options": {}}})
    with pytest.raises(ValueError, match=r"image encoder.*depth"):
        encoder_config.build({"beit": {"depth": 2}})


def test_existing_folder(lens: VisionLens, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="overwrite=True"):
        lens.save_pretrained(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"other'.*\blens\b"):
            lens.save_pretrained(tmp_path / "other", overwrite=overwrite)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    lens.save_pretrained(folder, overwrite=True)
    same(lens, attach_vision(folder))


@pytest.mark.parametrize(
    "path", ["language/model.safetensors", "language/config.json", "vision.safetensors", "projection.safetensors"]
)
def test_damaged_files_are_refused(path: str, folder: Path) -> None:
    content = bytearray((folder / path).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / path).write_bytes(bytes(content))
    with pytest.raises(ValueError, match=f"{path}' is damaged"):
        attach_vision(folder)


def test_missing_files_are_listed(folder: Path) -> None:
    (folder / "vision.safetensors").unlink()
    (folder / "language" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks language/config.json, vision.safetensors"):
        attach_vision(folder)


@pytest.mark.parametrize("version", [2, "1", None])
def test_other_format_versions_are_refused(version: object, folder: Path) -> None:
    card = json.loads((folder / "lens.json").read_text())
    (folder / "lens.json").write_text(json.dumps(card | {"format": version}))
    with pytest.raises(ValueError, match=rf"format {version!r} .*format 1\b"):
        attach_vision(folder)


def test_damaged_cards_are_refused(folder: Path) -> None:
    card = json.loads((folder / "lens.json").read_text())
    for text in ("{", "[]", "null", "{}"):
        (folder / "lens.json").write_text(text)
        with pytest.raises(ValueError, match=r"lens\.json'.*damaged"):
            attach_vision(folder)
    (folder / "lens.json").write_text(json.dumps({k: v for k, v in card.items() if k != "files"}))
    with pytest.raises(ValueError, match=r"lens\.json'.* files$"):
        attach_vision(folder)


def test_hostile_cards_fetch_nothing(folder: Path) -> None:
    """Names that would make transformers or timm load code or files from elsewhere are refused."""
    card = json.loads((folder / "lens.json").read_text())
    (folder / "lens.json").write_text(json.dumps(card | {"attn_implementation": "somebody/kernel"}))
    with pytest.raises(ValueError, match=r"'somebody/kernel'.* eager, sdpa"):
        attach_vision(folder)
    for name in ("hf-hub:somebody/model", "local-dir:/somewhere"):
        with pytest.raises(ValueError, match=rf"image encoder .*{name}"):
            encoder_config.build({"timm": {"name": name, "options": {}}})
    with pytest.raises(ValueError, match="checkpoint_path"):
        encoder_config.build({"timm": {"name": "resnet10t", "options": {"checkpoint_path": "weights.pth"}}})


def test_encoder_description_of_other_content(folder: Path) -> None:
    """With a checksum that fits."""
    described = json.loads((folder / "vision.json").read_text())
    described["preprocessing"]["colour"] = "blue"
    (folder / "vision.json").write_text(json.dumps(described))
    card = json.loads((folder / "lens.json").read_text())
    card["files"]["vision.json"] = hashlib.sha256((folder / "vision.json").read_bytes()).hexdigest()
    (folder / "lens.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"vision\.json' .*colour"):
        attach_vision(folder)


def test_processed_weights_are_not_saved() -> None:
    bridge = wrapped_model("bridge", random_language_model())
    bridge.enable_compatibility_mode()
    with pytest.raises(ValueError, match=r"TransformerBridge .*\(processed\)"):
        to_hugging_face(bridge)


def test_unknown_part_and_unfit_projection(lens: VisionLens, tmp_path: Path) -> None:
    for without in (["language"], "vision"):
        with pytest.raises(ValueError, match=f"vision.* projection.* {re.escape(repr(without))}$"):
            lens.save_pretrained(tmp_path / "lens", without=without)
    linear, lens.projection.linear = lens.projection.linear, nn.Sequential(lens.projection.linear)
    try:
        with pytest.raises(ValueError, match=r"nn\.Linear.* Sequential.*without=\['projection'\]"):
            lens.save_pretrained(tmp_path / "lens")
    finally:
        lens.projection.linear = linear
    assert not (tmp_path / "lens").exists()
