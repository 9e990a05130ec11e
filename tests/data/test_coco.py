"""COCO's format: both layouts, masks against pycocotools, filters, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lens_multimodal.data import CocoScenes, Scene, read_coco
from tests.data.coco_folders import HEIGHT, TRIANGLE, WIDTH, blob, edit, write

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "coco")


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
    with pytest.raises(ValueError, match=r"b\.png.*cat.*dog"):
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
    with pytest.raises(ValueError, match=r"train2017.*val2017"):
        read_coco(tmp_path / "c")
    assert names(read_coco(tmp_path / "c", split="val2017")) == names(plain)


def test_only_one_of_the_two_files(folder: Path) -> None:
    (folder / "captions.json").unlink()
    assert all(not s.captions for s in read_coco(folder, with_captions=False))
    with pytest.raises(ValueError, match=r"with_captions.*with_objects"):
        read_coco(folder, with_captions=False, with_objects=False)
    with pytest.raises(FileNotFoundError, match=r"captions\.json"):
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
    with pytest.raises(ValueError, match=r"dogs.*3.*dog"):
        scenes.with_objects(categories=["dogs"])
    with pytest.raises(TypeError, match=r"\['dog'\]"):
        scenes.with_objects(categories="dog")


def test_captioned_pictures(folder: Path) -> None:
    pictures = read_coco(folder).captioned()
    assert [p.key for p in pictures] == ["a.png", "b.png"]
    assert pictures[0].captions == ("A dog sits.", "Somebody and a dog.")
    assert pictures[0].open().size == (WIDTH, HEIGHT)


def test_everything_missing_is_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "images" / "a.png").unlink()
    (folder / "images" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2 of 3.*a\.png, c\.png"):
        read_coco(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"instances\.json, captions\.json, images/"):
        read_coco(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="absent"):
        read_coco(tmp_path / "absent")


def test_names_that_begin_with_the_folder_of_the_pictures(folder: Path) -> None:
    expected = [(scene.path, scene.captions) for scene in read_coco(folder)]
    for file in ("instances.json", "captions.json"):
        edit(folder / file, lambda v: [p.update(file_name=f"images/{p['file_name']}") for p in v["images"]])
    assert [(scene.path, scene.captions) for scene in read_coco(folder)] == expected
    (folder / "images" / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"3 of 3.*images/a\.png"):
        read_coco(folder)


def test_picture_of_another_size(folder: Path) -> None:
    Image.new("RGB", (5, 6)).save(folder / "images" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png.*5 x 6.*40 x 30"):
        read_coco(folder)[0].open()


def test_two_files_of_different_splits(folder: Path) -> None:
    edit(folder / "captions.json", lambda v: v["images"][0].update(file_name="z.png"))
    with pytest.raises(ValueError, match=r"7 .*a\.png.*z\.png"):
        read_coco(folder)


def test_a_file_without_its_lists(folder: Path) -> None:
    edit(folder / "instances.json", lambda v: v.pop("categories"))
    with pytest.raises(ValueError, match=r"instances\.json.*categories"):
        read_coco(folder)


def test_unreadable_and_hostile_files(folder: Path) -> None:
    (folder / "captions.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"captions\.json"):
        read_coco(folder)
    edit(folder / "instances.json", lambda v: v["images"][0].update(file_name="../../secret.png"))
    with pytest.raises(ValueError, match=r"\.\./\.\./secret\.png"):
        read_coco(folder, with_captions=False)
