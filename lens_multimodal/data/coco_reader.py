"""Read a folder in COCO's format: entries that can be used become scenes, the others are counted."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lens_multimodal.data import coco_entries, coco_files
from lens_multimodal.data.captioned import LeftOut
from lens_multimodal.data.coco import CocoScenes, Scene, SceneObject
from lens_multimodal.data.coco_entries import Entry, Value
from lens_multimodal.data.coco_turns import ANNOTATED_ON, turns_of
from lens_multimodal.image.orientation import Turn


def read_coco(
    folder: str | Path,
    *,
    split: str | None = None,
    with_captions: bool = True,
    with_objects: bool = True,
    annotated_on: str | None = None,
    strict: bool = False,
) -> CocoScenes:
    """Read a folder in COCO's format.

    Two layouts are known: `instances.json`, `captions.json` and `images/`; and COCO 2017 as published,
    `annotations/instances_val2017.json`, `annotations/captions_val2017.json` and `val2017/`. A `file_name` may begin
    with the name of the pictures' folder, as in `val2017/000000000139.jpg`.

    Entries that cannot be read correctly are left out, such as run lengths that do not cover their picture, objects of
    pictures that are not listed, and captions without text. A warning and `left_out` of the
    result say how many, and why.

    Photos are opened upright, as EXIF asks. Their objects follow: whether they were annotated on the stored or on the
    upright pixels shows in the sides in the annotation file.

    Args:
        folder: holds one of the two layouts.
        split: `val2017`, ...; needed only where the folder has several.
        with_captions: False for a folder without a captions file.
        with_objects: False for a folder without an instances file.
        annotated_on: "stored" or "upright", for photos whose sides do not show it, since they are equal or the turn
            keeps them. None follows the other turned photos if they agree, otherwise takes "stored" and warns.
        strict: refuse the folder if any entry would be left out.

    Raises:
        FileNotFoundError: annotation files or pictures are missing; the message says how many, with the first twenty.
        ValueError: a malformed annotation file, several splits and none named, nothing asked for, no picture that
            can be used, or an unusable entry if `strict`.
    """
    folder = Path(folder)
    if not (with_captions or with_objects):
        raise ValueError("with_captions and with_objects are both False, so nothing is left to read")
    if annotated_on not in (None, *ANNOTATED_ON):
        raise ValueError(f"annotated_on must be one of {', '.join(ANNOTATED_ON)}, or None, got {annotated_on!r}")
    files = coco_files.locate(folder, split)
    wanted = [kind for kind, asked in (("instances", with_objects), ("captions", with_captions)) if asked]
    coco_files.need(folder, [files[kind] for kind in wanted], files["images"])
    left_out = LeftOut()
    tables = [_Table(files[kind], coco_files.load(files[kind], LISTS[kind]), left_out) for kind in wanted]
    pictures = coco_files.inside(files["images"], _pictures(tables))
    coco_files.need_pictures(files["images"], [entry.file_name for entry in pictures.values()])
    categories: dict[int, coco_entries.Category] = {}
    objects: dict[int, list[coco_entries.Annotation]] = {}
    captions: dict[int, list[str]] = {}
    if with_objects:
        categories = tables[0].by_id("categories", coco_entries.category)
        read = partial(coco_entries.annotation, pictures=pictures, categories=categories)
        for thing in tables[0].usable("annotations", read):
            objects.setdefault(thing.image_id, []).append(thing)
    if with_captions:
        for caption in tables[-1].usable("annotations", partial(coco_entries.caption, pictures=pictures)):
            captions.setdefault(caption.image_id, []).append(caption.text)
    if left_out.count and (strict or not pictures):
        raise ValueError(f"{str(folder)!r}: {left_out}; the first: {'; '.join(left_out.examples[:5])}")
    if left_out.count:
        warnings.warn(f"{str(folder)!r}: {left_out}; the first: {left_out.examples[0]}", stacklevel=2)
    turns = turns_of(pictures, files["images"], annotated_on, asked_for=objects)
    return CocoScenes(
        scenes=tuple(
            _scene(entry, objects.get(number, ()), captions.get(number, ()), turns[number], folder, files["images"])
            for number, entry in pictures.items()
        ),
        categories=tuple(dict.fromkeys(categories[number].name for number in sorted(categories))),
        left_out=left_out,
    )


LISTS = {"instances": ("images", "annotations", "categories"), "captions": ("images", "annotations")}
"""What each annotation file must contain."""


@dataclass(frozen=True)
class _Table:
    """One annotation file."""

    path: Path
    lists: dict[str, list[Any]]
    left_out: LeftOut

    def usable(self, name: str, read: Callable[[dict[str, Any]], Value]) -> Iterator[Value]:
        return coco_entries.usable(self.lists[name], read, path=self.path, left_out=self.left_out)

    def by_id(self, name: str, read: Callable[[dict[str, Any]], Entry]) -> dict[int, Entry]:
        return coco_entries.by_id(self.usable(name, read), kind=name, path=self.path, left_out=self.left_out)


def _pictures(tables: Sequence[_Table]) -> dict[int, coco_entries.Picture]:
    """The pictures of all files by id."""
    found: dict[int, coco_entries.Picture] = {}
    for table in tables:
        for number, entry in table.by_id("images", coco_entries.picture).items():
            known = found.setdefault(number, entry)
            if known != entry:
                raise ValueError(
                    f"picture {number} is {known.file_name} ({known.width} x {known.height}) in one annotation file "
                    f"and {entry.file_name} ({entry.width} x {entry.height}) in {str(table.path)!r}: the two files are "
                    f"not of the same split"
                )
    return found


def _scene(
    entry: coco_entries.Picture,
    objects: Sequence[coco_entries.Annotation],
    captions: Sequence[str],
    turn: Turn,
    folder: Path,
    images: Path,
) -> Scene:
    width, height = turn.sides(entry.width, entry.height)
    return Scene(
        id=entry.id,
        path=images / entry.file_name,
        height=height,
        width=width,
        captions=tuple(captions),
        objects=tuple(
            SceneObject(
                id=thing.id,
                category=thing.category.name,
                supercategory=thing.category.supercategory,
                area=thing.area,
                box=turn.box(thing.box, width=entry.width, height=entry.height),
                is_crowd=thing.is_crowd,
                height=height,
                width=width,
                segmentation=thing.segmentation,
                extra=thing.extra,
                turn=turn,
            )
            for thing in objects
        ),
        extra=entry.extra,
        folder=folder,
    )
