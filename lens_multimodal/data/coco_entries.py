"""The four kinds of entries in COCO's annotation files, each checked by one function; what is unusable is left out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lens_multimodal.data.captioned import LeftOut
from lens_multimodal.data.segmentation import check

Value = TypeVar("Value")

PICTURE_KEYS = {"id", "file_name", "height", "width", "license", "flickr_url", "coco_url", "date_captured"}
OBJECT_KEYS = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}
"""Keys that COCO defines."""


class Unusable(ValueError):
    """An entry that cannot be read correctly: a short fixed reason, in the plural, and the value that came."""

    def __init__(self, reason: str, got: Any = None) -> None:
        super().__init__(reason)
        self.reason, self.got = reason, got


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An entry of `images`; the sides are those of the pixels that were annotated."""

    id: int
    file_name: str
    height: int
    width: int
    extra: dict[str, Any] = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Category:
    """An entry of `categories`."""

    id: int
    name: str
    supercategory: str


Entry = TypeVar("Entry", Picture, Category)


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """An object, as annotated."""

    id: int
    image_id: int
    category: Category
    area: float
    box: tuple[float, float, float, float]
    is_crowd: bool
    segmentation: Any
    extra: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A caption without the space around it."""

    image_id: int
    text: str


def picture(entry: dict[str, Any]) -> Picture:
    number, name = whole(entry.get("id")), entry.get("file_name")
    height, width = whole(entry.get("height")), whole(entry.get("width"))
    if number is None:
        raise Unusable("pictures whose id is not an integer", entry.get("id"))
    if not isinstance(name, str) or not name:
        raise Unusable("pictures without a file_name", name)
    if height is None or width is None or min(height, width) < 1:
        raise Unusable("pictures whose height and width are not pixels", [entry.get("height"), entry.get("width")])
    extra = {k: v for k, v in entry.items() if k not in PICTURE_KEYS}
    return Picture(id=number, file_name=name, height=height, width=width, extra=extra)


def category(entry: dict[str, Any]) -> Category:
    number, name, above = whole(entry.get("id")), entry.get("name"), entry.get("supercategory")
    if number is None:
        raise Unusable("categories whose id is not an integer", entry.get("id"))
    if not isinstance(name, str) or not name.strip():
        raise Unusable("categories without a name", name)
    return Category(id=number, name=name, supercategory=above if isinstance(above, str) else "")


def annotation(entry: dict[str, Any], pictures: dict[int, Picture], categories: dict[int, Category]) -> Annotation:
    number, area, box = whole(entry.get("id")), number_of(entry.get("area")), _box(entry.get("bbox"))
    shown, kind = _listed(entry.get("image_id"), pictures), _listed(entry.get("category_id"), categories)
    if number is None:
        raise Unusable("objects whose id is not an integer", entry.get("id"))
    if shown is None:
        raise Unusable("objects whose picture is not listed", entry.get("image_id"))
    if kind is None:
        raise Unusable("objects whose category is not listed", entry.get("category_id"))
    if area is None or area < 0:
        raise Unusable("objects whose area is not a number of pixels", entry.get("area"))
    if box is None:
        raise Unusable("objects whose bbox is not left, top, width, height", entry.get("bbox"))
    if entry.get("iscrowd", 0) not in (0, 1, None):
        raise Unusable("objects whose iscrowd is neither 0 nor 1", entry["iscrowd"])
    try:
        check(entry.get("segmentation"), height=shown.height, width=shown.width)
    except ValueError as error:
        raise Unusable("objects whose segmentation is not a mask of their picture", error) from error
    return Annotation(
        id=number,
        image_id=shown.id,
        category=kind,
        area=area,
        box=box,
        is_crowd=bool(entry.get("iscrowd")),
        segmentation=entry["segmentation"],
        extra={k: v for k, v in entry.items() if k not in OBJECT_KEYS},
    )


def caption(entry: dict[str, Any], pictures: dict[int, Picture]) -> Caption:
    shown, text = _listed(entry.get("image_id"), pictures), entry.get("caption")
    if shown is None:
        raise Unusable("captions whose picture is not listed", entry.get("image_id"))
    if not isinstance(text, str) or not text.strip():
        raise Unusable("captions without text", text)
    return Caption(image_id=shown.id, text=text.strip())


def usable(
    entries: list[Any], read: Callable[[dict[str, Any]], Value], *, path: Path, left_out: LeftOut
) -> Iterator[Value]:
    """What `read` makes of the entries; those that it cannot use are counted with the file, their id and the reason."""
    for place, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise Unusable("entries that are not JSON objects", entry)
            yield read(entry)
        except Unusable as error:
            named = isinstance(entry, dict) and "id" in entry
            where = f"id {str(entry['id'])[:40]}" if named else f"entry {place} of its list"
            left_out.add(f"{path.name}, {where} (got {str(error.got)[:80]})", error.reason)


def by_id(values: Iterator[Entry], *, kind: str, path: Path, left_out: LeftOut) -> dict[int, Entry]:
    """Entries by their id. Equal ones count once; different ones that share an id are not used."""
    found: dict[int, Entry] = {}
    twice: set[int] = set()
    for value in values:
        if found.setdefault(value.id, value) != value:
            twice.add(value.id)
    for number in sorted(twice):
        left_out.add(f"{path.name}, id {number}", f"{kind} that share their id with different ones")
    return {number: value for number, value in found.items() if number not in twice}


def whole(value: Any) -> int | None:
    """A JSON number without a fraction, such as 480 or 480.0."""
    found = number_of(value)
    return int(value) if found is not None and found == int(found) else None


def number_of(value: Any) -> float | None:
    """A finite JSON number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -1e18 < value < 1e18:
        return None
    return float(value)


def _box(value: Any) -> tuple[float, float, float, float] | None:
    sides = [number for x in value if (number := number_of(x)) is not None] if isinstance(value, list) else []
    if len(sides) != 4 or len(value) != 4 or min(sides[2:]) < 0:
        return None
    return sides[0], sides[1], sides[2], sides[3]


def _listed(number: Any, entries: dict[int, Entry]) -> Entry | None:
    found = whole(number)
    return None if found is None else entries.get(found)
