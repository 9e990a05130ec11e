"""COCO 2017 as it is published, through the experiments' filters and through a run."""

import json
from pathlib import Path

import pandas as pd
import pytest

from lens_multimodal.experiments.coco_scenes import scenes_of
from lens_multimodal.experiments.stream.manifest import describe
from lens_multimodal.reproduction import reproduce
from lens_multimodal.tiny import scenes_folder
from tests.experiments.planted import CELL, make_scenes, make_world


def published(folder: Path, *, splits: tuple[str, ...] = ("train2017", "val2017")) -> Path:
    """The planted scenes in COCO 2017's layout; the last picture of each split shows a crowd alone."""
    (folder / "annotations").mkdir(parents=True)
    categories = [
        {"id": 18, "name": "dog", "supercategory": "animal"},
        {"id": 17, "name": "cat", "supercategory": "animal"},
    ]
    for first, split in enumerate(splits):
        scenes = make_scenes(folder / split)
        images = [
            {"id": s.id + 100 * first, "file_name": s.path.name, "height": s.height, "width": s.width, "license": 4}
            for s in scenes
        ]
        things = [
            {
                "id": s.id + 100 * first, "image_id": s.id + 100 * first, "bbox": list(s.objects[0].box),
                "category_id": 18 if s.objects[0].category == "dog" else 17, "area": s.objects[0].area,
                "segmentation": s.objects[0].segmentation, "iscrowd": int(s is scenes[-1]),
            }
            for s in scenes
        ]  # fmt: skip
        crowd = {**things[0], "id": 900 + first, "iscrowd": 1, "category_id": 17}
        captions = [{"id": i["id"], "image_id": i["id"], "caption": "A dog there."} for i in images]
        files = {"instances": [*things, crowd], "captions": captions}
        for kind, annotations in files.items():
            made = {"images": images, "annotations": annotations, "categories": categories}
            (folder / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(made))
    return folder


def test_of_several_splits_the_validation_split_is_taken_and_crowds_are_left_out(tmp_path):
    coco = published(tmp_path / "coco")
    scenes = scenes_of(coco)
    assert {scene.path.parent.name for scene in scenes} == {"val2017"}
    assert [scene.id for scene in scenes] == [110, 111, 112, 113, 114], "the sixth shows a crowd alone"
    assert [thing.category for thing in scenes[0].objects] == ["dog"], "a crowd of cats is not an object"
    assert scenes[0].seg_mask("dog").sum() == CELL**2


def test_the_folder_of_a_split_names_the_split(tmp_path, monkeypatch):
    coco = published(tmp_path / "coco")
    assert [scene.id for scene in scenes_of(coco / "train2017")] == [10, 11, 12, 13, 14]
    monkeypatch.chdir(coco / "val2017")
    assert [scene.id for scene in scenes_of(".")] == [110, 111, 112, 113, 114]
    alone = published(tmp_path / "alone", splits=("train2017",))
    assert len(scenes_of(alone)) == 5


def test_what_is_missing_is_listed(tmp_path):
    coco = published(tmp_path / "coco")
    (coco / "annotations" / "captions_val2017.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"annotations/captions_val2017\.json"):
        scenes_of(coco)
    for name in ("11.png", "13.png"):
        (coco / "train2017" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 6 .*: 11\.png, 13\.png"):
        scenes_of(coco / "train2017")
    with pytest.raises(FileNotFoundError, match=r"annotations/instances_test2017\.json, .*, test2017/"):
        scenes_of(coco / "test2017")


def test_a_data_set_of_crowds_alone_is_refused(tmp_path):
    coco = published(tmp_path / "coco", splits=("val2017",))
    path = coco / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": [{**a, "iscrowd": 1} for a in content["annotations"]]}))
    with pytest.raises(ValueError, match=r"\b6 .* crowd"):
        scenes_of(coco)


def test_the_scenes_of_the_package_pass_whole():
    assert len(scenes_of(scenes_folder())) == 440


def test_unusable_entries_are_counted_in_the_manifest_of_a_run(tmp_path):
    coco = published(tmp_path / "coco", splits=("val2017",))
    path = coco / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    spoilt = [{**content["annotations"][0], "id": number, "image_id": 5000} for number in (7000, 7001)]
    path.write_text(json.dumps({**content, "annotations": [*content["annotations"], *spoilt]}))
    with pytest.warns(UserWarning, match=r"\b2 .*7000"):
        scenes = scenes_of(coco)
    assert [scene.id for scene in scenes] == [10, 11, 12, 13, 14]
    world = make_world(tmp_path / "world")
    made = describe(world.lens, [], scenes, settings={}, seed=0, limit=None)
    assert made["left_out"] == {"objects whose picture is not listed": 2}


def test_a_run_over_the_published_layout(tmp_path):
    """In float64 on the planted trio: five pictures, and no exact removal, which COCO cannot offer."""
    world = make_world(tmp_path / "world")
    chosen = {"picture": {"max_new_tokens": 4, "top_k": 12, "n_ranked": 120}, "follow_ups": {"covered": 0.5}}
    names = ["projection", "follow_ups"]
    results = reproduce(
        world.lens, data=published(tmp_path / "coco"), only=names, out=tmp_path / "out", progress=False, settings=chosen
    )
    assert results.manifest["data"]["scenes"] == 5
    assert results.manifest["folder"].endswith("val2017")
    regions = results.tables["follow_ups.regions"]
    assert set(regions["image_id"]) == {110, 112, 114}, "the pictures of dogs"
    assert isinstance(regions, pd.DataFrame)
    assert "object removed (mean vector)" in set(regions["condition"])
    assert "nothing here is removed exactly" in results.summaries["follow_ups"]["regions"].caption
    assert "No verdict: 3 " in results.summaries["follow_ups"]["regions"].verdict
