"""Where COCO's annotation files lie, and their tables checked on reading."""

from collections import Counter
from pathlib import Path
from typing import Any

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


def need_pictures(images: Path, names: list[str]) -> None:
    """Raise FileNotFoundError listing every missing picture, ValueError for one outside of the folder."""
    if foreign := outside(names):
        raise ValueError(f"the annotations name a picture outside of {str(images)!r}: {foreign[0]!r}")
    present = {p.relative_to(images).as_posix() for p in images.rglob("*") if p.is_file()}
    missing = [name for name in names if name not in present]
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} of {len(names):,} pictures are missing in {str(images)!r}: " + ", ".join(missing)
        )


def load(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """One annotation file, which has to hold these lists."""
    value = read_json(path)
    lacking = [k for k in keys if not isinstance(value, dict) or not isinstance(value.get(k), list)]
    if lacking:
        raise ValueError(f"{str(path)!r} is not a COCO annotation file: it has no list {', '.join(lacking)}")
    for key in keys:
        for number, entry in enumerate(value[key]):
            if not isinstance(entry, dict) or not is_id(entry.get("id", number)):
                raise ValueError(f"{str(path)!r}: entry {number} of {key} must be an object with a number as its id")
    return value


def pictures(sources: list[tuple[dict[str, Any] | None, Path]]) -> dict[int, dict[str, Any]]:
    """The pictures of both files by id."""
    entries: dict[int, dict[str, Any]] = {}
    for value, path in sources:
        if value is None:
            continue
        repeated = [number for number, n in Counter(e.get("id") for e in value["images"]).items() if n > 1]
        if repeated:
            raise ValueError(f"{str(path)!r} lists several pictures under one id: {repeated[:5]}")
        for entry in value["images"]:
            lacking = {"id", "file_name", "height", "width"} - set(entry)
            if lacking:
                raise ValueError(f"{str(path)!r}: picture {entry.get('id')} lacks {', '.join(sorted(lacking))}")
            sides = entry["height"], entry["width"]
            if not isinstance(entry["file_name"], str) or not all(is_id(side) and side > 0 for side in sides):
                raise ValueError(
                    f"{str(path)!r}: picture {entry['id']} needs a file_name, height and width in pixels, got "
                    f"{entry['file_name']!r}, {sides[0]!r}, {sides[1]!r}"
                )
            known = entries.setdefault(entry["id"], entry)
            if any(known[k] != entry[k] for k in ("file_name", "height", "width")):
                raise ValueError(
                    f"picture {entry['id']} is {known['file_name']} in one annotation file and {entry['file_name']} "
                    f"in {str(path)!r}: the two files are not of one split"
                )
    return entries


def categories(instances: dict[str, Any], path: Path) -> dict[int, tuple[str, str]]:
    """Name and supercategory by id."""
    for c in instances["categories"]:
        if "id" not in c or not isinstance(c.get("name"), str) or not isinstance(c.get("supercategory", ""), str):
            raise ValueError(f"{str(path)!r}: every category needs id and name")
    return {c["id"]: (c["name"], c.get("supercategory", "")) for c in instances["categories"]}


def captions_by_picture(
    captions: dict[str, Any], entries: dict[int, dict[str, Any]], path: Path
) -> dict[int, list[str]]:
    """The captions of each picture id, in the order of the file."""
    found: dict[int, list[str]] = {}
    for a in captions["annotations"]:
        if not is_id(a.get("image_id")) or a["image_id"] not in entries or not isinstance(a.get("caption"), str):
            raise ValueError(f"{str(path)!r}: annotation {a.get('id')} has no caption, or names a picture not listed")
        found.setdefault(a["image_id"], []).append(a["caption"].strip())
    return found


def is_id(value: Any) -> bool:
    """Whether a JSON value is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)
