"""Scenes in COCO's format: pictures, captions, and objects with their segmentation masks."""

import difflib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from lens_multimodal.data.captioned import CaptionedPicture
from lens_multimodal.model.images import as_picture


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneObject:
    """One annotated object of a scene."""

    id: int
    category: str
    supercategory: str
    area: float
    """Pixels, as annotated."""
    box: tuple[float, float, float, float]
    """Left, top, width, height in pixels."""
    is_crowd: bool
    """A region of many things of one kind, rather than one object."""
    height: int
    width: int
    segmentation: Any = field(repr=False)
    extra: dict[str, Any] = field(repr=False)
    """Keys of the annotation that COCO does not define."""

    @property
    def seg_mask(self) -> Bool[np.ndarray, "height width"]:
        """True on the object's pixels; decoded from the polygons or run lengths when asked for.

        Raises:
            ValueError: the segmentation is malformed, or made for a picture of another size.
            ImportError: pycocotools is not installed.
        """
        return _decode(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One picture with its captions and objects."""

    id: int
    path: Path
    height: int
    width: int
    captions: tuple[str, ...]
    objects: tuple[SceneObject, ...]
    extra: dict[str, Any] = field(repr=False)
    """Keys of the picture's entry that COCO does not define."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the objects' categories, each once, in order of first appearance."""
        return tuple(dict.fromkeys(o.category for o in self.objects))

    def seg_mask(self, category: str) -> Bool[np.ndarray, "height width"]:
        """True where any object of a category is.

        Raises: ValueError if the scene has none.
        """
        masks = [o.seg_mask for o in self.objects if o.category == category]
        if not masks:
            raise ValueError(f"{self.path.name} shows no {category!r}, only {', '.join(self.categories) or 'nothing'}")
        return np.logical_or.reduce(masks)

    def open(self) -> Image.Image:
        """The picture in RGB.

        Raises: ValueError if the file has another size than the annotations say.
        """
        picture = as_picture(self.path)
        if picture.size != (self.width, self.height):
            raise ValueError(
                f"{self.path} is {picture.width} x {picture.height}, but its annotations are for {self.width} x "
                f"{self.height}: the pictures and the annotations do not belong together"
            )
        return picture


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoScenes(Sequence[Scene]):
    """The scenes of one split, in the order of the annotation file."""

    scenes: tuple[Scene, ...] = field(repr=False)
    categories: tuple[str, ...]
    """Every category of the data set, in the order of its ids."""

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: Any) -> Any:
        return self.scenes[index]

    def __iter__(self) -> Iterator[Scene]:
        return iter(self.scenes)

    def where(self, keep: Callable[[Scene], bool]) -> "CocoScenes":
        """The scenes for which `keep` holds, objects untouched."""
        return replace(self, scenes=tuple(s for s in self.scenes if keep(s)))

    def with_objects(
        self,
        *,
        categories: Collection[str] | None = None,
        min_area: float = 0.0,
        max_area: float = float("inf"),
        crowds: bool = False,
    ) -> "CocoScenes":
        """Only objects of these categories and areas, and only scenes that still have one.

        Args:
            categories: names; None for all.
            min_area: pixels, inclusive, as annotated.
            max_area: pixels, inclusive.
            crowds: keep regions annotated as crowds.

        Raises:
            ValueError: a category that the data set does not have.
            TypeError: a string in place of a list.
        """
        if isinstance(categories, str):
            raise TypeError(f"categories must be a list of names, got the string {categories!r}; write [{categories!r}]")
        wanted = set(self.categories if categories is None else _known(categories, self.categories))

        def fits(o: SceneObject) -> bool:
            return o.category in wanted and min_area <= o.area <= max_area and (crowds or not o.is_crowd)

        kept = (replace(s, objects=tuple(filter(fits, s.objects))) for s in self.scenes)
        return replace(self, scenes=tuple(s for s in kept if s.objects))

    def captioned(self) -> list[CaptionedPicture]:
        """The scenes that have captions, as data to train on."""
        return [CaptionedPicture(key=s.path.name, picture=s.path, captions=s.captions) for s in self if s.captions]


def read_coco(
    folder: str | Path, *, split: str | None = None, with_captions: bool = True, with_objects: bool = True
) -> CocoScenes:
    """Read a folder in COCO's format.

    Two layouts are known: `instances.json`, `captions.json` and `images/`; and COCO 2017 as published,
    `annotations/instances_val2017.json`, `annotations/captions_val2017.json` and `val2017/`.

    Args:
        folder: holds one of the two layouts.
        split: `val2017`, ...; needed only where the folder has several.
        with_captions: False for a folder without a captions file.
        with_objects: False for a folder without an instances file.

    Raises:
        FileNotFoundError: annotation files or pictures are missing; the message lists them all.
        ValueError: a malformed annotation file, several splits and none named, or nothing asked for.
    """
    folder = Path(folder)
    if not (with_captions or with_objects):
        raise ValueError("neither captions nor objects were asked for; leave at least one of the two True")
    files = _files(folder, split)
    wanted = {"instances": with_objects, "captions": with_captions}
    _need(folder, [files[kind] for kind in wanted if wanted[kind]], files["images"])
    instances = _load(files["instances"], ("images", "annotations", "categories")) if with_objects else None
    captions = _load(files["captions"], ("images", "annotations")) if with_captions else None
    entries = _entries([(instances, files["instances"]), (captions, files["captions"])])
    _need_pictures(files["images"], [entry["file_name"] for entry in entries.values()])
    named = _categories(instances, files["instances"]) if instances else {}
    objects = _objects(instances, entries, named, files["instances"]) if instances else {}
    texts = _captions(captions, entries, files["captions"]) if captions else {}
    scenes = tuple(
        Scene(
            id=number,
            path=files["images"] / entry["file_name"],
            height=entry["height"],
            width=entry["width"],
            captions=tuple(texts.get(number, ())),
            objects=tuple(objects.get(number, ())),
            extra={k: v for k, v in entry.items() if k not in _PICTURE_KEYS},
        )
        for number, entry in entries.items()
    )
    return CocoScenes(scenes=scenes, categories=tuple(name for _, (name, _) in sorted(named.items())))


_PICTURE_KEYS = {"id", "file_name", "height", "width", "license", "flickr_url", "coco_url", "date_captured"}
_OBJECT_KEYS = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}


def _files(folder: Path, split: str | None) -> dict[str, Path]:
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
                f"{str(folder)!r} has {len(present)} splits ({', '.join(present) or 'no instances_*.json in annotations'}"
                f"); name one: read_coco(folder, split='val2017')"
            )
        split = present[0]
    return {kind: annotations / f"{kind}_{split}.json" for kind in ("instances", "captions")} | {
        "images": folder / split
    }


def _need(folder: Path, files: list[Path], images: Path) -> None:
    missing = [str(f.relative_to(folder)) for f in files if not f.is_file()]
    missing += [] if images.is_dir() else [f"{images.relative_to(folder)}/"]
    if missing:
        raise FileNotFoundError(
            f"{str(folder)!r} lacks {', '.join(missing)}; expected instances.json, captions.json and images/, or "
            f"COCO 2017's annotations/instances_<split>.json, annotations/captions_<split>.json and <split>/"
        )


def _need_pictures(images: Path, names: list[str]) -> None:
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"the annotations name a picture outside of {str(images)!r}: {name!r}")
    present = {p.relative_to(images).as_posix() for p in images.rglob("*") if p.is_file()}
    missing = [name for name in names if name not in present]
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} of {len(names):,} pictures are missing in {str(images)!r}: " + ", ".join(missing)
        )


def _load(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is damaged or not JSON: {error}") from error
    lacking = [k for k in keys if not isinstance(value, dict) or not isinstance(value.get(k), list)]
    if lacking:
        raise ValueError(f"{str(path)!r} is not a COCO annotation file: it has no list {', '.join(lacking)}")
    return value


def _entries(sources: list[tuple[dict[str, Any] | None, Path]]) -> dict[int, dict[str, Any]]:
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
            known = entries.setdefault(entry["id"], entry)
            if any(known[k] != entry[k] for k in ("file_name", "height", "width")):
                raise ValueError(
                    f"picture {entry['id']} is {known['file_name']} in one annotation file and {entry['file_name']} "
                    f"in {str(path)!r}: the two files are not of one split"
                )
    return entries


def _categories(instances: dict[str, Any], path: Path) -> dict[int, tuple[str, str]]:
    try:
        return {c["id"]: (c["name"], c.get("supercategory", "")) for c in instances["categories"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r}: every category needs id and name") from error


def _objects(
    instances: dict[str, Any], entries: dict[int, dict[str, Any]], named: dict[int, tuple[str, str]], path: Path
) -> dict[int, list[SceneObject]]:
    found: dict[int, list[SceneObject]] = {}
    for a in instances["annotations"]:
        lacking = {"id", "image_id", "category_id", "segmentation", "area", "bbox"} - set(a)
        if lacking:
            raise ValueError(f"{str(path)!r}: annotation {a.get('id')} lacks {', '.join(sorted(lacking))}")
        if a["image_id"] not in entries or a["category_id"] not in named:
            raise ValueError(
                f"{str(path)!r}: annotation {a['id']} names picture {a['image_id']} and category {a['category_id']}, "
                f"which are not both listed in the file"
            )
        entry, (name, above) = entries[a["image_id"]], named[a["category_id"]]
        left, top, width, height = (float(x) for x in a["bbox"])
        found.setdefault(a["image_id"], []).append(
            SceneObject(
                id=a["id"],
                category=name,
                supercategory=above,
                area=float(a["area"]),
                box=(left, top, width, height),
                is_crowd=bool(a.get("iscrowd", 0)),
                height=entry["height"],
                width=entry["width"],
                segmentation=a["segmentation"],
                extra={k: v for k, v in a.items() if k not in _OBJECT_KEYS},
            )
        )
    return found


def _captions(captions: dict[str, Any], entries: dict[int, dict[str, Any]], path: Path) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for a in captions["annotations"]:
        if a.get("image_id") not in entries or not isinstance(a.get("caption"), str):
            raise ValueError(f"{str(path)!r}: annotation {a.get('id')} has no caption, or names a picture not listed")
        found.setdefault(a["image_id"], []).append(a["caption"].strip())
    return found


def _known(wanted: Collection[str], categories: tuple[str, ...]) -> Collection[str]:
    for name in wanted:
        if name not in categories:
            close = difflib.get_close_matches(name, categories, n=3)
            raise ValueError(
                f"no category {name!r} among {len(categories)}" + (f"; closest: {', '.join(close)}" if close else "")
            )
    return wanted


def _decode(o: SceneObject) -> np.ndarray:
    try:
        from pycocotools import mask as rle
    except ImportError as error:
        raise ImportError("segmentation masks need pycocotools: pip install 'lens-multimodal[coco]'") from error
    where = f"object {o.id} ({o.category})"
    value = o.segmentation
    if isinstance(value, dict):
        if list(value.get("size", ())) != [o.height, o.width]:
            raise ValueError(
                f"{where}: its run lengths are for a picture of size {value.get('size')}, its picture has "
                f"[{o.height}, {o.width}] (height, width)"
            )
        counts = value.get("counts")
        encoded = rle.frPyObjects(value, o.height, o.width) if isinstance(counts, list) else dict(value)
        if isinstance(counts, list) and sum(counts) != o.height * o.width:
            raise ValueError(f"{where}: its run lengths cover {sum(counts)} pixels of {o.height * o.width}")
        if isinstance(counts, str):
            encoded["counts"] = counts.encode()
    elif isinstance(value, list):
        short = [p for p in value if not isinstance(p, list) or len(p) < 6 or len(p) % 2]
        if short or not value:
            raise ValueError(f"{where}: expected polygons of at least three points (x, y, ...), got {short or value}")
        encoded = rle.merge(rle.frPyObjects(value, o.height, o.width))
    else:
        raise ValueError(f"{where}: a segmentation is polygons or run lengths, got {type(value).__name__}")
    return rle.decode(encoded).astype(bool)
