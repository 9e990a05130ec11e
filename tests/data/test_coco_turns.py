"""Objects of photos that EXIF turns lie where the photo shows them, whichever pixels were annotated."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lens_multimodal.data import CocoScenes, read_coco
from lens_multimodal.image.orientation import TURNS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

LEFT, TOP, RIGHT, BOTTOM = 2, 6, 11, 12
"""Of a white rectangle on black, on the stored pixels."""


def data_set(folder: Path, photos: list[tuple[tuple[int, int], int, str]], *, kind: str = "png") -> Path:
    """Photos by stored sides, orientation, and the pixels on which they are annotated."""
    (folder / "images").mkdir(parents=True)
    images, objects = [], []
    for number, ((width, height), orientation, annotated_on) in enumerate(photos, start=1):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[TOP:BOTTOM, LEFT:RIGHT] = 255
        exif = Image.Exif()
        exif[0x112] = orientation
        Image.fromarray(pixels).save(folder / "images" / f"{number}.{kind}", exif=exif)
        mask = pixels[..., 0] > 0
        if annotated_on == "upright":
            mask = TURNS[orientation].pixels(mask)
        rows, columns = np.nonzero(mask)
        left, top, right, bottom = (int(x) for x in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        size = {"height": mask.shape[0], "width": mask.shape[1]}
        images.append({"id": number, "file_name": f"{number}.{kind}", **size})
        polygon = [left, top, right, top, right, bottom, left, bottom]
        runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.flatten(order="F"), 2]))).tolist()
        for segmentation in ([polygon], {"size": list(mask.shape), "counts": runs if not mask[0, 0] else [0, *runs]}):
            objects.append(
                {
                    "id": len(objects),
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": segmentation,
                    "area": (right - left) * (bottom - top),
                    "bbox": [left, top, right - left, bottom - top],
                }
            )
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "dog"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def lie_on_their_object(scenes: CocoScenes) -> list[bool]:
    """For each scene whether its masks and boxes are the white pixels of the picture as it opens."""
    right = []
    for scene in scenes:
        white = np.asarray(scene.open())[..., 0] > 127
        assert (scene.height, scene.width) == white.shape
        rows, columns = np.nonzero(white)
        box = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
        assert len(scene.objects) == 2
        right.append(all(np.array_equal(o.seg_mask, white) and o.box == box for o in scene.objects))
        assert all((o.height, o.width) == white.shape for o in scene.objects)
    return right


def read(folder: Path, **options: Any) -> CocoScenes:
    return read_coco(folder, with_captions=False, **options)


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("annotated_on", ["stored", "upright"])
def test_exchanged_sides_tell(annotated_on: str, kind: str, tmp_path: Path) -> None:
    folder = data_set(tmp_path / "coco", [((30, 20), turn, annotated_on) for turn in (5, 6, 7, 8)], kind=kind)
    assert lie_on_their_object(read(folder)) == [True] * 4
    other = "stored" if annotated_on == "upright" else "upright"
    assert lie_on_their_object(read(folder, annotated_on=other)) == [True] * 4


UNTOLD = [((30, 20), 2), ((30, 20), 3), ((30, 20), 4), ((20, 20), 5), ((20, 20), 6), ((20, 20), 7), ((20, 20), 8)]


@pytest.mark.parametrize("annotated_on", ["stored", "upright"])
def test_where_sides_tell_nothing_the_setting_decides(annotated_on: str, tmp_path: Path) -> None:
    folder = data_set(tmp_path / "coco", [(*photo, annotated_on) for photo in UNTOLD])
    with warnings.catch_warnings(action="error", category=UserWarning):
        assert lie_on_their_object(read(folder, annotated_on=annotated_on)) == [True] * len(UNTOLD)
    with pytest.warns(UserWarning, match=r"7 .*EXIF.*1\.png.*annotated_on"):
        found = lie_on_their_object(read(folder))
    assert found == [annotated_on == "stored"] * len(UNTOLD)


@pytest.mark.parametrize("annotated_on", ["stored", "upright"])
def test_where_sides_tell_nothing_the_other_photos_do(annotated_on: str, tmp_path: Path) -> None:
    folder = data_set(tmp_path / "coco", [(*photo, annotated_on) for photo in [*UNTOLD, ((30, 20), 6)]])
    with pytest.warns(UserWarning, match=rf"EXIF.*{annotated_on}"):
        scenes = read(folder)
    assert lie_on_their_object(scenes) == [True] * len(scenes)


def test_photos_that_contradict_each_other(tmp_path: Path) -> None:
    photos = [((30, 20), 6, "upright"), ((30, 20), 8, "stored"), ((30, 20), 3, "stored")]
    with pytest.warns(UserWarning, match=r"1 .*EXIF.*3\.png"):
        scenes = read(data_set(tmp_path / "coco", photos))
    assert lie_on_their_object(scenes) == [True] * 3


def test_pictures_that_are_not_turned_are_as_they_were(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "coco", [((30, 20), 1, "stored"), ((30, 20), 77, "stored")])
    for annotated_on in (None, "stored", "upright"):
        assert lie_on_their_object(read(folder, annotated_on=annotated_on)) == [True, True]


def test_a_turned_picture_of_another_size_is_refused_when_opened(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "coco", [((30, 20), 6, "stored")])
    content = json.loads((folder / "instances.json").read_text())
    content["images"][0]["width"] = 31
    content["annotations"] = content["annotations"][:1]
    (folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"20 x 30.*31 x 20"):
        read(folder)[0].open()


def test_settings_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stored.*upright.*turned"):
        read(tmp_path, annotated_on="turned")
