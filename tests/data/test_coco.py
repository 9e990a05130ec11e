"""COCO's format: both layouts, masks against pycocotools, filters, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from lens_multimodal.data import CocoScenes, Scene, read_coco

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

HEIGHT, WIDTH = 30, 40
TRIANGLE = [5.0, 5.0, 25.0, 5.0, 15.0, 20.0]


def blob(seed: int) -> np.ndarray:
    return np.asfortranarray(np.random.default_rng(seed).random((HEIGHT, WIDTH)) > 0.6)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts: alternating zeros and ones down the columns."""
    flat = mask.flatten(order="F").astype(int)
    counts, current, run = [], 0, 0
    for value in flat:
        if value != current:
            counts.append(run)
            current, run = value, 0
        run += 1
    return [*counts, run]


def annotations() -> tuple[dict[str, Any], dict[str, Any]]:
    compressed = rle.encode(blob(1).astype(np.uint8))
    images = [
        {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH, "license": 1, "drawings": "known"},
        {"id": 3, "file_name": "b.png", "height": HEIGHT, "width": WIDTH, "drawings": "held_out"},
        {"id": 9, "file_name": "c.png", "height": HEIGHT, "width": WIDTH},
    ]
    parts: list[dict[str, Any]] = [
        {"image_id": 7, "category_id": 18, "segmentation": [TRIANGLE], "area": 150.0, "drawing": {"style": "noto"}},
        {
            "image_id": 7, "category_id": 1, "area": 480,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()},
        },
        {
            "image_id": 3, "category_id": 18, "area": 470, "iscrowd": 1,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": run_lengths(blob(2))},
        },
        {"image_id": 3, "category_id": 18, "segmentation": [TRIANGLE, [30, 20, 38, 20, 38, 28]], "area": 180},
    ]  # fmt: skip
    for number, part in enumerate(parts):
        part |= {"id": number, "bbox": [5, 5, 20, 15]}
        part.setdefault("iscrowd", 0)
    instances = {
        "images": images,
        "annotations": parts,
        "categories": [
            {"id": 18, "name": "dog", "supercategory": "animal"},
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 44, "name": "bottle", "supercategory": "kitchen"},
        ],
    }
    texts = [(7, " A dog sits.\n"), (3, "A herd."), (7, "Somebody and a dog.")]
    captions = {
        "images": images,
        "annotations": [{"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(texts)],
    }
    return instances, captions


def write(folder: Path, *, split: str | None = None) -> Path:
    instances, captions = annotations()
    pictures = folder / (split or "images")
    pictures.mkdir(parents=True)
    home = folder / "annotations" if split else folder
    home.mkdir(exist_ok=True)
    ending = f"_{split}" if split else ""
    (home / f"instances{ending}.json").write_text(json.dumps(instances))
    (home / f"captions{ending}.json").write_text(json.dumps(captions))
    for entry in instances["images"]:
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(pictures / entry["file_name"])
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "coco")


def edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def names(scenes: CocoScenes) -> list[str]:
    return [scene.path.name for scene in scenes]


def test_scenes_in_order_of_the_file(folder: Path) -> None:
    scenes = read_coco(folder)
    assert names(scenes) == ["a.png", "b.png", "c.png"]
    assert len(scenes) == 3
    first = scenes[0]
    assert isinstance(first, Scene)
    assert (first.id, first.height, first.width) == (7, HEIGHT, WIDTH)
    assert first.captions == ("A dog sits.", "Somebody and a dog.")
    assert first.categories == ("dog", "person")
    assert scenes.categories == ("person", "dog", "bottle")
    assert [o.supercategory for o in first.objects] == ["animal", "person"]
    assert first.extra == {"drawings": "known"}
    assert first.objects[0].extra == {"drawing": {"style": "noto"}}
    assert first.objects[0].box == (5.0, 5.0, 20.0, 15.0)
    assert first.open().size == (WIDTH, HEIGHT)
    assert scenes[2].captions == ()
    assert scenes[2].objects == ()


def test_masks_of_every_kind(folder: Path) -> None:
    """Run lengths give back the mask they were made from; polygons agree with Pillow away from their edges."""
    (triangle, person), (crowd, two) = (scene.objects for scene in read_coco(folder)[:2])
    assert person.seg_mask.dtype == np.bool_
    assert person.seg_mask.shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(person.seg_mask, blob(1))
    np.testing.assert_array_equal(crowd.seg_mask, blob(2))
    drawn = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(drawn).polygon(TRIANGLE, fill=1)
    assert (triangle.seg_mask != np.asarray(drawn)).sum() <= 40
    assert abs(int(triangle.seg_mask.sum()) - 150) <= 15
    assert two.seg_mask[triangle.seg_mask].all()
    assert two.seg_mask[23, 36]


def test_mask_of_a_category_is_the_union(folder: Path) -> None:
    scene = read_coco(folder)[1]
    union = scene.objects[0].seg_mask | scene.objects[1].seg_mask
    np.testing.assert_array_equal(scene.seg_mask("dog"), union)
    with pytest.raises(ValueError, match=r"b.png shows no 'cat', only dog"):
        scene.seg_mask("cat")


def test_coco_2017_layout(tmp_path: Path) -> None:
    plain, published = read_coco(write(tmp_path / "a")), read_coco(write(tmp_path / "b", split="val2017"))
    assert names(plain) == names(published)
    assert published[0].path == tmp_path / "b" / "val2017" / "a.png"
    write(tmp_path / "c", split="val2017")
    for kind in ("instances", "captions"):
        (tmp_path / "c" / "annotations" / f"{kind}_train2017.json").write_text("{}")
    assert names(read_coco(tmp_path / "c")) == names(plain)
    (tmp_path / "c" / "train2017").mkdir()
    with pytest.raises(ValueError, match=r"2 splits \(train2017, val2017\); name one"):
        read_coco(tmp_path / "c")
    assert names(read_coco(tmp_path / "c", split="val2017")) == names(plain)


def test_only_one_of_the_two_files(folder: Path) -> None:
    (folder / "captions.json").unlink()
    assert all(not s.captions for s in read_coco(folder, with_captions=False))
    with pytest.raises(ValueError, match="neither captions nor objects"):
        read_coco(folder, with_captions=False, with_objects=False)
    with pytest.raises(FileNotFoundError, match=r"lacks captions.json"):
        read_coco(folder)


def test_filters(folder: Path) -> None:
    scenes = read_coco(folder)
    assert names(scenes.where(lambda s: s.extra.get("drawings") == "known")) == ["a.png"]
    dogs = scenes.with_objects(categories=["dog"])
    assert names(dogs) == ["a.png", "b.png"]
    assert {o.category for s in dogs for o in s.objects} == {"dog"}
    assert [len(s.objects) for s in dogs] == [1, 1]
    assert [len(s.objects) for s in scenes.with_objects(categories=["dog"], crowds=True)] == [1, 2]
    assert names(scenes.with_objects(min_area=180.0)) == ["a.png", "b.png"]
    assert names(scenes.with_objects(min_area=180.0, max_area=479.0)) == ["b.png"]
    assert names(scenes) == ["a.png", "b.png", "c.png"]
    assert len(scenes[0].objects) == 2
    with pytest.raises(ValueError, match="no category 'dogs' among 3; closest: dog"):
        scenes.with_objects(categories=["dogs"])
    with pytest.raises(TypeError, match=r"write \['dog'\]"):
        scenes.with_objects(categories="dog")


def test_captioned_pictures(folder: Path) -> None:
    pictures = read_coco(folder).captioned()
    assert [p.key for p in pictures] == ["a.png", "b.png"]
    assert pictures[0].captions == ("A dog sits.", "Somebody and a dog.")
    assert pictures[0].open().size == (WIDTH, HEIGHT)


def test_everything_missing_is_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "images" / "a.png").unlink()
    (folder / "images" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 3 pictures are missing in .*: a.png, c.png"):
        read_coco(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"lacks instances.json, captions.json, images/; expected"):
        read_coco(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no folder at"):
        read_coco(tmp_path / "absent")


def test_picture_of_another_size(folder: Path) -> None:
    Image.new("RGB", (5, 6)).save(folder / "images" / "a.png")
    with pytest.raises(ValueError, match=r"a.png is 5 x 6, but its annotations are for 40 x 30"):
        read_coco(folder)[0].open()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("instances", lambda v: v.pop("categories"), "not a COCO annotation file: it has no list categories"),
        ("instances", lambda v: v["images"].append(v["images"][0]), r"several pictures under one id: \[7\]"),
        ("instances", lambda v: v["images"][0].pop("height"), "picture 7 lacks height"),
        ("instances", lambda v: v["annotations"][1].pop("bbox"), "annotation 1 lacks bbox"),
        ("instances", lambda v: v["annotations"][1].update(image_id=8), "annotation 1 names picture 8 and category 1"),
        ("instances", lambda v: v["annotations"][1].update(category_id=2), "names picture 7 and category 2"),
        ("instances", lambda v: v["categories"][0].pop("name"), "every category needs id and name"),
        ("captions", lambda v: v["annotations"][0].update(caption=3), "annotation 0 has no caption"),
        ("captions", lambda v: v["annotations"][0].update(image_id=8), "or names a picture not listed"),
        ("captions", lambda v: v["images"][0].update(file_name="z.png"), "the two files are not of one split"),
    ],
)
def test_malformed_annotations(file: str, change: Any, message: str, folder: Path) -> None:
    edit(folder / f"{file}.json", change)
    with pytest.raises(ValueError, match=message):
        read_coco(folder)


def test_unreadable_and_hostile_files(folder: Path) -> None:
    (folder / "captions.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"captions.json' is damaged or not JSON"):
        read_coco(folder)
    edit(folder / "instances.json", lambda v: v["images"][0].update(file_name="../../secret.png"))
    with pytest.raises(ValueError, match="a picture outside of"):
        read_coco(folder, with_captions=False)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [WIDTH, HEIGHT], "counts": "abc"}, r"for a picture of size \[40, 30\], its picture has \[30, 40\]"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 10]}, "run lengths cover 15 pixels of 1200"),
        ([[1, 2, 3, 4]], "at least three points"),
        ([], "at least three points"),
        ("polygon", "polygons or run lengths, got str"),
    ],
)
def test_malformed_masks(segmentation: object, message: str, folder: Path) -> None:
    edit(folder / "instances.json", lambda v: v["annotations"][0].update(segmentation=segmentation))
    with pytest.raises(ValueError, match=message):
        _ = read_coco(folder)[0].objects[0].seg_mask
