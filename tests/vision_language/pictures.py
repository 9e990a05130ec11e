"""A small data set of pictures of several sizes with annotated objects."""

from pathlib import Path

from lens_multimodal.data import Scene, SceneObject
from tests.vision_language.conftest import noise

SIZES = ((96, 60), (40, 90), (64, 64))


def scenes_of_several_sizes(folder: Path, count: int) -> list[Scene]:
    """Noise on disk, with a dog in the left half of each picture and a cat in the lower half of two of three."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_scene(folder, number, *SIZES[number % len(SIZES)]) for number in range(count)]


def _scene(folder: Path, number: int, width: int, height: int) -> Scene:
    path = folder / f"{number:03d}.png"
    noise(number, width=width, height=height).save(path)
    dog = _rectangle(number, "dog", (0, 0, width // 2, height), width=width, height=height)
    cat = _rectangle(100 + number, "cat", (0, height // 2, width, height), width=width, height=height)
    return Scene(
        id=number, path=path, height=height, width=width, captions=(" a dog",),
        objects=(dog, cat) if number % 3 else (dog,), extra={},
    )  # fmt: skip


def _rectangle(own_id: int, category: str, corners: tuple[int, int, int, int], *, width: int, height: int):
    left, top, right, bottom = corners
    return SceneObject(
        id=own_id, category=category, supercategory="animal", area=float((right - left) * (bottom - top)),
        box=(float(left), float(top), float(right - left), float(bottom - top)), is_crowd=False, height=height,
        width=width, segmentation=[[left, top, right, top, right, bottom, left, bottom]], extra={},
    )  # fmt: skip
