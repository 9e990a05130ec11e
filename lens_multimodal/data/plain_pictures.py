"""Pictures without annotations as scenes."""

from collections.abc import Sequence
from pathlib import Path

from lens_multimodal.data.coco import Scene
from lens_multimodal.data.folders import pictures_in
from lens_multimodal.image.pictures import stored_form


def pictures_as_scenes(pictures: str | Path | Sequence[str | Path]) -> list[Scene]:
    """Scenes without captions and objects, numbered from 0, for whatever runs over a data set.

    Args: pictures: a folder, read with its subfolders by path; or picture files.
    Raises: FileNotFoundError for a folder or file that does not exist; ValueError for a folder without pictures.
    """
    if isinstance(pictures, (str, Path)):
        if not Path(pictures).is_dir():
            raise FileNotFoundError(f"no folder at {str(pictures)!r}")
        pictures = pictures_in(Path(pictures)) or _none(Path(pictures))
    scenes = []
    for number, path in enumerate(map(Path, pictures)):
        width, height = _size(path)
        scenes.append(Scene(id=number, path=path, height=height, width=width, captions=(), objects=(), extra={}))
    return scenes


def _size(path: Path) -> tuple[int, int]:
    """As the picture is opened; 1 x 1 for a file that is not a picture, which a run then reports as unreadable."""
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {str(path)!r}")
    form = stored_form(path)
    return (1, 1) if form is None else form.turn.sides(form.width, form.height)


def _none(folder: Path) -> list[Path]:
    raise ValueError(f"no picture in the folder {str(folder)!r}")
