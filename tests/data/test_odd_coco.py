"""Annotation files as people have them: what can be read is read, the rest is left out, counted and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lens_multimodal.data import read_coco
from tests.data.coco_folders import HEIGHT, TRIANGLE, WIDTH, edit, write

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "coco")


def annotation(number: int, **changed: Any) -> Change:
    return lambda v: v["annotations"][number].update(changed)


LEFT_OUT: dict[str, tuple[str, Change, str, str]] = {
    "a picture without a side": ("instances", lambda v: v["images"][2].pop("height"), "pictures", "9"),
    "a picture of half a pixel": ("captions", lambda v: v["images"][2].update(width=40.5), "pictures", "9"),
    "a picture without a name": ("instances", lambda v: v["images"][2].update(file_name=None), "pictures", "9"),
    "a picture that is not an object": ("instances", lambda v: v["images"].append(7), "entries", "entry 3"),
    "an object without a box": ("instances", lambda v: v["annotations"][1].pop("bbox"), "objects", "1"),
    "a box of three numbers": ("instances", annotation(1, bbox=[1, 2, 3]), "objects", "1"),
    "a box of text": ("instances", annotation(1, bbox=["1", 2, 3, 4]), "objects", "1"),
    "a box of negative width": ("instances", annotation(1, bbox=[1, 2, -3, 4]), "objects", "1"),
    "an area that is not a number": ("instances", annotation(1, area=float("nan")), "objects", "1"),
    "an area of text": ("instances", annotation(1, area="480"), "objects", "1"),
    "an object of an unlisted picture": ("instances", annotation(1, image_id=8), "objects", "1"),
    "an object of a list of pictures": ("instances", annotation(1, image_id=[7]), "objects", "1"),
    "an object of an unlisted category": ("instances", annotation(1, category_id=2), "objects", "1"),
    "an object that is neither crowd nor none": ("instances", annotation(1, iscrowd="0"), "objects", "1"),
    "an object without a segmentation": (
        "instances",
        lambda v: v["annotations"][1].pop("segmentation"),
        "objects",
        "1",
    ),
    "an object with an empty segmentation": ("instances", annotation(1, segmentation=[]), "objects", "1"),
    "parts without an inside": ("instances", annotation(1, segmentation=[[1, 2, 3, 4], []]), "objects", "1"),
    "three points on a line": ("instances", annotation(1, segmentation=[[1, 1, 5, 5, 9, 9]]), "objects", "1"),
    "runs that are too short": (
        "instances",
        annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": "0d0"}),
        "objects",
        "1",
    ),
    "an empty caption": ("captions", annotation(0, caption=" \n"), "captions", "0"),
    "a caption of numbers": ("captions", annotation(0, caption=3), "captions", "0"),
    "a caption of an unlisted picture": ("captions", annotation(0, image_id=8), "captions", "0"),
}


@pytest.mark.parametrize(("file", "change", "kind", "number"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_one_entry_is_left_out_and_the_rest_is_read(
    file: str, change: Change, kind: str, number: str, folder: Path
) -> None:
    whole = read_coco(folder)
    assert not whole.left_out.count
    edit(folder / f"{file}.json", change)
    with pytest.warns(UserWarning, match=rf"{file}\.json.*\b{number}\b"):
        scenes = read_coco(folder)
    assert scenes.left_out.count == 1
    ((reason, count),) = scenes.left_out.by_reason.items()
    assert (reason.split()[0], count) == (kind, 1)
    (example,) = scenes.left_out.examples
    assert f"{file}.json" in example
    assert number in example
    lost = {"objects": 1, "captions": 1}
    for name in ("objects", "captions"):
        before, after = (sum(len(getattr(s, name)) for s in some) for some in (whole, scenes))
        assert before - after == (lost[name] if kind == name else 0)
    assert scenes.where(bool).left_out is scenes.left_out
    assert scenes.with_objects().left_out is scenes.left_out
    for scene in scenes:
        assert all(o.seg_mask.any() for o in scene.objects)
    with pytest.raises(ValueError, match=rf"{file}\.json.*\b{number}\b"):
        read_coco(folder, strict=True)


def test_categories_that_cannot_be_told_apart(folder: Path) -> None:
    """One id with two names: its objects cannot be read. Equal entries, gaps and two ids of one name can."""
    edit(folder / "instances.json", lambda v: v["categories"].append({"id": 44, "name": "vase"}))
    with pytest.warns(UserWarning, match="44"):
        assert read_coco(folder).categories == ("person", "dog")
    with pytest.raises(ValueError, match="44"):
        read_coco(folder, strict=True)

    def odd_but_clear(v: dict[str, Any]) -> None:
        v["categories"] = [v["categories"][0], v["categories"][0], *v["categories"][1:3]]
        v["categories"].append({"id": 9000, "name": "dog", "supercategory": None})
        v["annotations"][0]["category_id"] = 9000

    edit(folder / "instances.json", odd_but_clear)
    scenes = read_coco(folder, strict=True)
    assert scenes.categories == ("person", "dog", "bottle")
    assert scenes[0].objects[0].category == "dog"


def test_a_category_without_a_name_takes_its_objects_along(folder: Path) -> None:
    edit(folder / "instances.json", lambda v: v["categories"][0].pop("name"))
    with pytest.warns(UserWarning, match="4 left out"):
        scenes = read_coco(folder)
    assert scenes.left_out.by_reason.total() == 4
    assert [o.category for s in scenes for o in s.objects] == ["person"]


def test_pictures_listed_twice(folder: Path) -> None:
    edit(folder / "instances.json", lambda v: v["images"].append(v["images"][0]))
    assert [scene.id for scene in read_coco(folder, strict=True)] == [7, 3, 9]
    edit(folder / "instances.json", lambda v: v["images"].append({**v["images"][0], "file_name": "c.png"}))
    with pytest.warns(UserWarning, match=r"instances\.json.*7"):
        scenes = read_coco(folder, with_captions=False)
    assert [scene.id for scene in scenes] == [3, 9]
    assert scenes.left_out.count == 3


def test_numbers_written_as_floats(folder: Path) -> None:
    whole = read_coco(folder)

    def as_floats(v: dict[str, Any]) -> None:
        for entry in v["images"]:
            entry |= {key: float(entry[key]) for key in ("id", "height", "width")}
        for entry in v["annotations"]:
            entry |= {key: float(entry[key]) for key in ("id", "image_id", "category_id", "iscrowd") if key in entry}

    for kind in ("instances", "captions"):
        edit(folder / f"{kind}.json", as_floats)
    scenes = read_coco(folder, strict=True)
    for before, after in zip(whole, scenes, strict=True):
        assert (after.id, after.height, after.width) == (before.id, HEIGHT, WIDTH)
        assert type(after.id) is type(after.height) is int
        assert after.captions == before.captions
        for one, two in zip(before.objects, after.objects, strict=True):
            assert (one.id, one.is_crowd, one.category) == (two.id, two.is_crowd, two.category)
            np.testing.assert_array_equal(one.seg_mask, two.seg_mask)


def test_parts_without_an_inside_do_not_cost_the_object(folder: Path) -> None:
    expected = read_coco(folder)[0].objects[0].seg_mask
    edit(folder / "instances.json", annotation(0, segmentation=[[3, 4], TRIANGLE, [], [30, 20, 38, 28]]))
    np.testing.assert_array_equal(read_coco(folder, strict=True)[0].objects[0].seg_mask, expected)


@pytest.mark.parametrize("value", [None, False, 0.0])
def test_crowds_that_are_none(value: Any, folder: Path) -> None:
    edit(folder / "instances.json", annotation(2, iscrowd=value))
    assert not any(o.is_crowd for s in read_coco(folder, strict=True) for o in s.objects)


def test_no_usable_picture_at_all(folder: Path) -> None:
    for kind in ("instances", "captions"):
        edit(folder / f"{kind}.json", lambda v: [e.update(id=f"0{e['id']}") for e in v["images"]])
    with pytest.raises(ValueError, match=r"6 pictures.*'?07"):
        read_coco(folder)
