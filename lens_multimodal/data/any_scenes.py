"""Scenes from a folder of any kind: COCO's format, one of its splits, or pictures alone."""

from collections.abc import Sequence
from pathlib import Path

from lens_multimodal.data.coco import Scene
from lens_multimodal.data.coco_reader import read_coco
from lens_multimodal.data.plain_pictures import pictures_as_scenes

SPLIT = "val2017"
"""The split that is read where there are several."""


def scenes_in(folder: str | Path) -> Sequence[Scene]:
    """Every picture of a folder, with its captions and objects where the folder has them, crowds included.

    Args:
        folder: COCO's format, COCO as published, the folder of one of its splits (`coco/train2017`), or pictures.

    Raises: as `read_coco` and `pictures_as_scenes`.
    """
    home, split = split_of(Path(folder).absolute())
    if not (home / "annotations").is_dir() and not (home / "instances.json").is_file():
        return pictures_as_scenes(folder)
    return read_coco(home, split=split, with_captions=_has_captions(home, split))


def split_of(folder: Path) -> tuple[Path, str | None]:
    """The data set's folder and the split; None where the folder is that of one split."""
    if (folder / "annotations").is_dir():
        return folder, SPLIT if (folder / SPLIT).is_dir() else None
    if (folder.parent / "annotations").is_dir() and not (folder / "instances.json").is_file():
        return folder.parent, folder.name
    return folder, None


def _has_captions(home: Path, split: str | None) -> bool:
    if (home / "annotations").is_dir():
        return any((home / "annotations").glob(f"captions_{split or '*'}.json"))
    return (home / "captions.json").is_file()
