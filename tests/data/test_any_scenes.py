"""One reader for every kind of folder."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from lens_multimodal.data import pictures_as_scenes, read_coco, scenes_in
from lens_multimodal.tiny import scenes_folder
from tests.lenses import picture


def test_a_folder_of_pictures(tmp_path):
    (tmp_path / "b").mkdir()
    picture(1).save(tmp_path / "b" / "one.png")
    picture(2, height=7).save(tmp_path / "a.png")
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    scenes = scenes_in(tmp_path)
    assert [(s.id, s.path.name, s.width, s.height) for s in scenes] == [
        (0, "a.png", 30, 7), (1, "one.png", 30, 20), (2, "c.jpg", 1, 1),
    ]  # fmt: skip
    assert all(s.captions == () and s.objects == () for s in scenes)
    assert np.array_equal(scenes[1].open(), picture(1))
    with pytest.raises(ValueError, match=r"c\.jpg"):
        scenes[2].open()


def test_a_picture_stored_on_its_side(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3).save(tmp_path / "turned.jpg", exif=exif)
    (scene,) = pictures_as_scenes([tmp_path / "turned.jpg"])
    assert scene.open().size == (scene.width, scene.height) == (20, 30)


def test_coco_in_either_layout_with_and_without_captions(tmp_path):
    known = read_coco(scenes_folder())
    assert [s.id for s in scenes_in(scenes_folder())] == [s.id for s in known]
    (tmp_path / "annotations").mkdir()
    for split in ("val2017", "train2017"):
        shutil.copytree(scenes_folder() / "images", tmp_path / split)
        shutil.copy(scenes_folder() / "instances.json", tmp_path / "annotations" / f"instances_{split}.json")
    for folder, split in ((tmp_path, "val2017"), (tmp_path / "train2017", "train2017")):
        found = scenes_in(folder)
        assert {s.path.parent.name for s in found} == {split}
        assert {s.captions for s in found} == {()}
        assert [s.categories for s in found] == [s.categories for s in known]


def test_crowds_and_pictures_without_objects_stay(tmp_path):
    shutil.copytree(scenes_folder() / "images", tmp_path / "images")
    instances = json.loads((scenes_folder() / "instances.json").read_text())
    first, second = (entry["id"] for entry in instances["images"][:2])
    kept = [a for a in instances["annotations"] if a["image_id"] != first]
    for annotation in kept:
        annotation["iscrowd"] = int(annotation["image_id"] == second)
    (tmp_path / "instances.json").write_text(json.dumps({**instances, "annotations": kept}))
    found = scenes_in(tmp_path)
    assert len(found) == len(instances["images"])
    assert found[0].objects == ()
    assert found[1].objects[0].is_crowd


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        scenes_in(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=re.escape(tmp_path.name)):
        scenes_in(tmp_path)
