"""Configuration files, data sets and tables that somebody damaged, wrote by hand, or made for something else."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_multimodal import Preprocessing, attach_vision, load_linear
from lens_multimodal.cli.experiment_commands import read_settings
from lens_multimodal.cli.neuron_list import parse_neurons, read_neurons
from lens_multimodal.cli.train_command import fit_settings
from lens_multimodal.data import read_coco, read_folder, read_shards
from lens_multimodal.train import FitSettings
from tests.lenses import picture

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def spoilt(draw, value: Any) -> Any:
    """A JSON value with one place replaced, taken out or added to."""
    value = json.loads(json.dumps(value))
    place, parent, key = value, None, None
    while isinstance(place, (dict, list)) and len(place) and draw(st.integers(0, 3)):
        parent = place
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        place = parent[key]
    if parent is None:
        return draw(json_values)
    if draw(st.booleans()):
        parent[key] = draw(json_values)
    elif isinstance(parent, dict) and draw(st.booleans()):
        parent[draw(st.text(max_size=6))] = draw(json_values)
    else:
        del parent[key]
    return value


@pytest.fixture(scope="module")
def saved(lens, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "lens"
    lens.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    picture().save(folder / "images" / "a.png")
    entry = {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
    thing = {
        "id": 5,
        "image_id": 1,
        "category_id": 2,
        "segmentation": [[0, 0, 9, 0, 9, 9]],
        "area": 40.5,
        "bbox": [0, 0, 9, 9],
    }
    category = {"id": 2, "name": "dog", "supercategory": "animal"}
    _dump(folder / "instances.json", {"images": [entry], "annotations": [thing], "categories": [category]})
    _dump(folder / "captions.json", {"images": [entry], "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]})
    return folder


@given(st.data())
def test_settings_of_training(attempt, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "settings.json"
    content = data.draw(spoilt({"steps": 3, "learning_rate": 1e-3, "precision": "no", "dropout": 0.5}) | json_values)
    path.write_text(json.dumps(content))
    found = attempt(lambda: fit_settings(path, {"seed": 1}))
    assert found is None or isinstance(found, FitSettings)


@given(st.binary(max_size=60) | st.just(b"[" * 100_000))
def test_settings_that_are_no_json(attempt, tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "binary.json"
    path.write_bytes(content)
    attempt(lambda: read_settings(path))


@given(st.data())
def test_preprocessing(attempt, data):
    own = Preprocessing(height=24, width=24).to_json()
    attempt(lambda: Preprocessing.from_json(data.draw(spoilt(own)))([picture()]))


@given(st.data())
def test_the_card_of_a_saved_lens(attempt, saved, tmp_path_factory, data):
    _spoil_and_open(attempt, saved, tmp_path_factory, "lens.json", data)


@given(st.data())
def test_the_encoder_of_a_saved_lens(attempt, saved, tmp_path_factory, data):
    """With its checksum adjusted: somebody who edits the file edits the card too."""
    _spoil_and_open(attempt, saved, tmp_path_factory, "vision.json", data)


@given(st.sampled_from(["vision.safetensors", "projection.safetensors", "proj.ckpt"]), st.data())
def test_damaged_weights_of_a_projection(attempt, saved, tmp_path_factory, name, data):
    content = bytearray((saved / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged{Path(name).suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    attempt(lambda: load_linear(path))


@pytest.mark.filterwarnings("ignore:.*left out")
@given(st.sampled_from(["instances.json", "captions.json"]), st.data())
def test_annotations(attempt, coco, tmp_path_factory, name, data):
    folder = _copy(coco, tmp_path_factory)
    _dump(folder / name, data.draw(spoilt(json.loads((coco / name).read_text()))))

    def use() -> None:
        for scene in read_coco(folder):
            scene.open()
            [thing.seg_mask for thing in scene.objects]

    attempt(use)


@given(st.data())
def test_lists_of_captions(attempt, coco, tmp_path_factory, data):
    folder = _copy(coco / "images", tmp_path_factory)
    row = data.draw(spoilt({"file_name": "a.png", "caption": "a dog", "captions": ["a dog", "a big dog"]}))
    if data.draw(st.booleans()):
        (folder / "captions.jsonl").write_text(json.dumps(row) + "\n")
    else:
        (folder / "captions.csv").write_bytes(data.draw(st.binary(max_size=30)) + b"\nfile_name,caption\na.png,a dog\n")
    attempt(lambda: [picture.open() for picture in read_folder(folder)])


@given(st.text(max_size=30) | st.from_regex(r"[a-z{}.,0-9]{0,20}\.tar", fullmatch=True))
def test_patterns_of_shards(attempt, pattern):
    attempt(lambda: read_shards(pattern))


@given(st.binary(max_size=2000))
def test_shards_of_noise(attempt, tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "noise.tar"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attempt(lambda: list(read_shards(path)))


@given(st.lists(st.text(max_size=12) | st.from_regex(r"\d+\.\d+", fullmatch=True), max_size=3))
def test_neurons_on_the_command_line(attempt, given_neurons):
    attempt(lambda: parse_neurons(given_neurons))


@given(
    st.sampled_from([".csv", ".json", ".parquet", ".txt"]),
    st.binary(max_size=60) | st.text(max_size=40).map(str.encode),
)
def test_tables_of_neurons(attempt, tmp_path_factory, ending, content):
    path = tmp_path_factory.getbasetemp() / f"neurons{ending}"
    path.write_bytes(content)
    attempt(lambda: read_neurons(path))


def _spoil_and_open(attempt, saved: Path, tmp_path_factory, name: str, data) -> None:
    from lens_multimodal.files import digest_of_file

    folder = _copy(saved, tmp_path_factory)
    _dump(folder / name, data.draw(spoilt(json.loads((saved / name).read_text()))))
    if name != "lens.json":
        card = json.loads((folder / "lens.json").read_text())
        card["files"][name] = digest_of_file(folder / name)
        _dump(folder / "lens.json", card)

    def use() -> None:
        with attach_vision(folder) as opened, torch.no_grad():
            opened.logits(opened.prompt(picture(), " dog"))

    attempt(use)


def _copy(folder: Path, tmp_path_factory) -> Path:
    copy = tmp_path_factory.getbasetemp() / f"copy-of-{folder.name}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
