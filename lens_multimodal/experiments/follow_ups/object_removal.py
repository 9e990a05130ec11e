"""Pictures without an object: the same scene composed without it, where the data set has one.

An annotation may name such a picture under `without`, a path inside the data set's folder; the package's own scenes do
so for every object. This removal is exact: background, other objects and noise stay, and the encoder sees the new
picture. In other data sets, such as COCO, only the object's image vectors can be replaced.
"""

from pathlib import PurePosixPath

from PIL import Image

from lens_multimodal.data import Scene, SceneObject
from lens_multimodal.experiments.shared.context import UnreadablePicture
from lens_multimodal.image.pictures import as_picture

KEY = "without"

EXACT = "object removed (scene without it)"
EXACT_CONTROL = "another object removed (scene without it)"
REPLACED = "object removed (mean vector)"
REPLACED_CONTROL = "as much background removed (mean vector)"
"""Conditions: two ways to remove the object, each with a control that removes something else."""


def picture_without(scene: Scene, category: str) -> Image.Image | None:
    """The scene composed without its object of a category.

    Returns: None where the data set has no such picture, or if the scene has several objects of the category, since
        each such picture lacks only one object.
    Raises: UnreadablePicture if a picture is named but missing, damaged, or of another size than the scene.
    """
    own = [thing for thing in scene.objects if thing.category == category]
    return _read(scene, own[0]) if len(own) == 1 and KEY in own[0].extra else None


def picture_without_another(scene: Scene, category: str) -> Image.Image | None:
    """A control: the scene without an object of another category, the one closest in area to those of this category.

    Returns: None where there is no such picture.
    Raises: as `picture_without`.
    """
    area = sum(thing.area for thing in scene.objects if thing.category == category)
    others = [thing for thing in scene.objects if thing.category != category and KEY in thing.extra]
    if not others:
        return None
    return _read(scene, min(others, key=lambda thing: (abs(thing.area - area), thing.id)))


def _read(scene: Scene, thing: SceneObject) -> Image.Image:
    named = str(thing.extra[KEY])
    path = PurePosixPath(named)
    if path.is_absolute() or ".." in path.parts:
        raise UnreadablePicture(f"object {thing.id} names a picture outside the data set's folder: {named!r}")
    if scene.folder is None:
        raise UnreadablePicture(
            f"object {thing.id} ({thing.category}) names the scene without it, {named!r}, but the scene was made "
            f"without the data set's folder; read it with data.read_coco, or set Scene.folder"
        )
    found = scene.folder / path
    if not found.is_file():
        raise UnreadablePicture(
            f"object {thing.id} ({thing.category}) names the scene without it, {named!r}, which is not in "
            f"{str(scene.folder)!r}; copy that folder as well, or remove {KEY!r} from the annotations"
        )
    try:
        picture = as_picture(found)
    except (ValueError, OSError) as error:
        raise UnreadablePicture(f"object {thing.id} ({thing.category}): {error}") from error
    if picture.size != (scene.width, scene.height):
        raise UnreadablePicture(
            f"{found} is {picture.width} x {picture.height}, but it should be {scene.path.name} without an object, "
            f"{scene.width} x {scene.height}"
        )
    return picture
