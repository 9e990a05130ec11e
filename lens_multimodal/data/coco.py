"""Scenes in COCO's format: pictures, captions, and objects with their segmentation masks."""

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from lens_multimodal.data import coco_files
from lens_multimodal.data.captioned import CaptionedPicture
from lens_multimodal.data.segmentation import decode
from lens_multimodal.image.pictures import as_picture


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
        return decode(
            self.segmentation, height=self.height, width=self.width, where=f"object {self.id} ({self.category})"
        )


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
    folder: Path | None = field(default=None, repr=False)
    """The data set's, in which further files lie that `extra` or an object's `extra` names."""

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
        min_area: float | int = 0.0,
        max_area: float | int = float("inf"),
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
            raise TypeError(
                f"categories must be a list of names, got the string {categories!r}; write [{categories!r}]"
            )
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
    files = coco_files.locate(folder, split)
    wanted = {"instances": with_objects, "captions": with_captions}
    coco_files.need(folder, [files[kind] for kind in wanted if wanted[kind]], files["images"])
    instances = coco_files.load(files["instances"], ("images", "annotations", "categories")) if with_objects else None
    captions = coco_files.load(files["captions"], ("images", "annotations")) if with_captions else None
    entries = coco_files.pictures([(instances, files["instances"]), (captions, files["captions"])])
    coco_files.need_pictures(files["images"], [entry["file_name"] for entry in entries.values()])
    named = coco_files.categories(instances, files["instances"]) if instances else {}
    objects = _objects(instances, entries, named, files["instances"]) if instances else {}
    texts = coco_files.captions_by_picture(captions, entries, files["captions"]) if captions else {}
    scenes = tuple(
        Scene(
            id=number,
            path=files["images"] / entry["file_name"],
            height=entry["height"],
            width=entry["width"],
            captions=tuple(texts.get(number, ())),
            objects=tuple(objects.get(number, ())),
            extra={k: v for k, v in entry.items() if k not in _PICTURE_KEYS},
            folder=folder,
        )
        for number, entry in entries.items()
    )
    return CocoScenes(scenes=scenes, categories=tuple(name for _, (name, _) in sorted(named.items())))


_PICTURE_KEYS = {"id", "file_name", "height", "width", "license", "flickr_url", "coco_url", "date_captured"}
_OBJECT_KEYS = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}


def _objects(
    instances: dict[str, Any],
    entries: dict[int, dict[str, Any]],
    named: dict[int, tuple[str, str]],
    path: Path,
) -> dict[int, list[SceneObject]]:
    found: dict[int, list[SceneObject]] = {}
    for a in instances["annotations"]:
        lacking = {"id", "image_id", "category_id", "segmentation", "area", "bbox"} - set(a)
        if lacking:
            raise ValueError(f"{str(path)!r}: annotation {a.get('id')} lacks {', '.join(sorted(lacking))}")
        ids = a["image_id"], a["category_id"]
        if not all(map(coco_files.is_id, ids)) or ids[0] not in entries or ids[1] not in named:
            raise ValueError(
                f"{str(path)!r}: annotation {a['id']} names picture {a['image_id']} and category {a['category_id']}, "
                f"which are not both listed in the file"
            )
        entry, (name, above) = entries[a["image_id"]], named[a["category_id"]]
        box, area = a["bbox"], a["area"]
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, (int, float)) for x in [*box, area]):
            raise ValueError(
                f"{str(path)!r}: annotation {a['id']} needs an area and a bbox of four numbers, got {area!r} and "
                f"{box!r}"
            )
        found.setdefault(a["image_id"], []).append(
            SceneObject(
                id=a["id"],
                category=name,
                supercategory=above,
                area=float(area),
                box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                is_crowd=bool(a.get("iscrowd", 0)),
                height=entry["height"],
                width=entry["width"],
                segmentation=a["segmentation"],
                extra={k: v for k, v in a.items() if k not in _OBJECT_KEYS},
            )
        )
    return found


def _known(wanted: Collection[str], categories: tuple[str, ...]) -> Collection[str]:
    for name in wanted:
        if name not in categories:
            close = difflib.get_close_matches(name, categories, n=3)
            raise ValueError(
                f"no category {name!r} among {len(categories)}" + (f"; closest: {', '.join(close)}" if close else "")
            )
    return wanted
