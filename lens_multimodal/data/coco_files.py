"""Where COCO's annotation files and pictures lie."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lens_multimodal.data.coco_entries import Picture
from lens_multimodal.files import outside, read_json


def locate(folder: Path, split: str | None) -> dict[str, Path]:
    """Paths of `instances`, `captions` and `images` in either layout, whether they exist or not."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {str(folder)!r}")
    annotations = folder / "annotations"
    if split is None and not annotations.is_dir():
        return {kind: folder / f"{kind}.json" for kind in ("instances", "captions")} | {"images": folder / "images"}
    if split is None:
        found = {
            p.stem.split("_", 1)[1] for kind in ("instances", "captions") for p in annotations.glob(f"{kind}_*.json")
        }
        present = sorted(name for name in found if (folder / name).is_dir()) or sorted(found)
        if len(present) != 1:
            raise ValueError(
                f"{str(folder)!r} has {len(present)} splits ({', '.join(present) or 'no instances_*.json'}); "
                f"name one: read_coco(folder, split='val2017')"
            )
        split = present[0]
    return {kind: annotations / f"{kind}_{split}.json" for kind in ("instances", "captions")} | {
        "images": folder / split
    }


def need(folder: Path, files: list[Path], images: Path) -> None:
    """Raise FileNotFoundError listing every annotation file, and the pictures' folder, that is missing."""
    missing = [str(f.relative_to(folder)) for f in files if not f.is_file()]
    missing += [] if images.is_dir() else [f"{images.relative_to(folder)}/"]
    if missing:
        raise FileNotFoundError(
            f"{str(folder)!r} lacks {', '.join(missing)}; expected instances.json, captions.json and images/, or "
            f"COCO 2017's annotations/instances_<split>.json, annotations/captions_<split>.json and <split>/"
        )


def inside(images: Path, pictures: dict[int, Picture]) -> dict[int, Picture]:
    """The pictures by their names in the folder, without its own name in front."""
    prefix = f"{images.name}/"
    if (images / images.name).is_dir():
        return pictures
    return {i: replace(entry, file_name=entry.file_name.removeprefix(prefix)) for i, entry in pictures.items()}


def need_pictures(images: Path, names: list[str]) -> None:
    """Raise FileNotFoundError with the first twenty missing pictures, ValueError for one outside of the folder."""
    if foreign := outside(names):
        raise ValueError(f"the annotations name a picture outside of {str(images)!r}: {foreign[0]!r}")
    present = {p.relative_to(images).as_posix() for p in images.rglob("*") if p.is_file()}
    missing = [name for name in names if name not in present]
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} of {len(names):,} pictures are missing in {str(images)!r}: "
            + ", ".join(missing[:20] + (["..."] if len(missing) > 20 else []))
        )


def load(path: Path, keys: tuple[str, ...]) -> dict[str, list[Any]]:
    """The lists of one annotation file.

    Raises: ValueError for a damaged file, or one without these lists.
    """
    value = read_json(path)
    lacking = [k for k in keys if not isinstance(value, dict) or not isinstance(value.get(k), list)]
    if lacking:
        raise ValueError(f"{str(path)!r} is not a COCO annotation file: it has no list {', '.join(lacking)}")
    return {key: value[key] for key in keys}
