"""The shipped files: complete, small, readable by standard tools, and free of leaks from held-out drawings."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPTJForCausalLM

from lens_multimodal import VisionLens, attach_vision, load_linear, tiny

SCENES = tiny.FOLDER / "scenes"


@pytest.fixture(scope="module")
def instances() -> dict:
    return json.loads((SCENES / "instances.json").read_text())


def test_everything_together_is_small() -> None:
    size = sum(f.stat().st_size for f in tiny.FOLDER.rglob("*") if f.is_file())
    assert size <= 40 * 2**20


def test_the_language_model_is_a_plain_gpt_j(lens: VisionLens) -> None:
    home = tiny.FOLDER / "language"
    model = GPTJForCausalLM.from_pretrained(home, local_files_only=True, dtype=torch.float32).eval()
    assert model.lm_head.bias is not None
    assert model.lm_head.weight.data_ptr() != model.transformer.wte.weight.data_ptr()
    assert 6 <= model.config.n_layer <= 12
    tokens = lens.text.encode("A picture of a dog")
    ids = torch.tensor([tokens])
    ours = lens.model(ids, return_type="logits")
    torch.testing.assert_close(ours, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_every_noun_is_one_token(instances: dict) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDER / "language", local_files_only=True)
    nouns = [category["name"] for category in instances["categories"]]
    assert len(nouns) >= 120
    longer = [n for n in nouns if len(tokenizer(f" {n}", add_special_tokens=False)["input_ids"]) != 1]
    assert longer == []


def test_the_projection_is_in_limbers_format(lens: VisionLens) -> None:
    state = load_file(tiny.FOLDER / "projection.safetensors")
    assert set(state) == {"weight", "bias"}
    linear = load_linear(tiny.FOLDER / "projection.safetensors")
    assert (linear.in_features, linear.out_features) == (lens.vision.d_vision, lens.shape.d_model)


def test_scenes_are_coco(instances: dict) -> None:
    coco = COCO(str(SCENES / "instances.json"))
    assert len(coco.imgs) >= 400
    captions = COCO(str(SCENES / "captions.json"))
    for image in instances["images"]:
        with Image.open(SCENES / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        masks = [coco.annToMask(a) for a in annotations]
        assert all(m.sum() == a["area"] for m, a in zip(masks, annotations, strict=True))
        assert np.sum(masks, axis=0).max() == 1, "every pixel belongs to one object at most"
        assert captions.getAnnIds(image["id"])


def test_halves_and_single_objects(instances: dict) -> None:
    count = {}
    for annotation in instances["annotations"]:
        count[annotation["image_id"]] = count.get(annotation["image_id"], 0) + 1
    for half in ("known", "held_out"):
        images = [i for i in instances["images"] if i["drawings"] == half]
        assert len(images) >= 200
        assert sum(count[i["id"]] == 1 for i in images) >= 100


def test_held_out_drawings_are_absent_from_training(instances: dict) -> None:
    trained_on = set((tiny.FOLDER / "training_pictures.txt").read_text().split())
    half = {image["id"]: image["drawings"] for image in instances["images"]}
    for annotation in instances["annotations"]:
        drawing = annotation["drawing"]
        assert (drawing["sha256"][:16] in trained_on) == (half[annotation["image_id"]] == "known")
        assert (drawing["split"] == "train") == (half[annotation["image_id"]] == "known")


def test_only_permissive_drawings_are_shown(instances: dict) -> None:
    licences = {a["drawing"]["licence"] for a in instances["annotations"]}
    assert not {licence for licence in licences if "SA" in licence or "GPL" in licence}
    named = (tiny.FOLDER / "DATA_LICENSES").read_text()
    assert all(a["drawing"]["source"] in named for a in instances["annotations"])


def test_captions_are_deterministic_and_take_any_picture(lens: VisionLens) -> None:
    path = next((SCENES / "images").glob("known_*.jpg"))
    picture = Image.open(path).convert("RGB")
    array = np.asarray(picture)
    one = lens.caption(path)
    assert isinstance(one, str)
    assert one == lens.caption(picture) == lens.caption(array) == lens.caption(torch.from_numpy(array.copy()))
    assert lens.caption([path, picture]) == [one, one]


@pytest.mark.parametrize("absent", ["vision.safetensors", "projection.safetensors", "language/model.safetensors"])
def test_a_missing_part_is_named(absent: str, tmp_path: Path) -> None:
    shutil.copytree(tiny.FOLDER, tmp_path / "trio", ignore=shutil.ignore_patterns("scenes", "__pycache__"))
    (tmp_path / "trio" / absent).unlink()
    load = {"v": tiny.load_vision, "p": tiny.load_projection, "l": tiny.load_language_model}[absent[0]]
    with pytest.raises(tiny.MissingWeights, match=Path(absent).name):
        load(tmp_path / "trio")


@pytest.mark.parametrize("damaged", ["vision.safetensors", "projection.safetensors", "language/model.safetensors"])
def test_a_damaged_part_is_named(damaged: str, tmp_path: Path) -> None:
    shutil.copytree(tiny.FOLDER, tmp_path / "trio", ignore=shutil.ignore_patterns("scenes", "__pycache__"))
    path = tmp_path / "trio" / damaged
    path.write_bytes(path.read_bytes()[:1000])
    load = {"v": tiny.load_vision, "p": tiny.load_projection, "l": tiny.load_language_model}[damaged[0]]
    with pytest.raises(tiny.MissingWeights, match="damaged"):
        load(tmp_path / "trio")


def test_a_second_lens_has_its_own_model(lens: VisionLens) -> None:
    with attach_vision() as other:
        assert other.model is not lens.model
