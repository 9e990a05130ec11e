"""Scenes in COCO's format: pictures, captions, and objects with their segmentation masks."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from lens_multimodal.closest_names import closest
from lens_multimodal.data.captioned import CaptionedPicture, LeftOut
from lens_multimodal.data.segmentation import decode
from lens_multimodal.image.orientation import UPRIGHT, Turn
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
    """Of the picture."""
    width: int
    segmentation: Any = field(repr=False)
    """As annotated."""
    extra: dict[str, Any] = field(repr=False)
    """Keys of the annotation that COCO does not define, as annotated."""
    turn: Turn = field(default=UPRIGHT, repr=False)
    """From the pixels that `segmentation` was made on to those of the upright picture; `box` is already turned."""

    @property
    def seg_mask(self) -> Bool[np.ndarray, "height width"]:
        """True on the object's pixels; decoded from the polygons or run lengths when asked for.

        Raises:
            ValueError: the segmentation is malformed, or made for a picture of another size.
            ImportError: pycocotools is not installed.
        """
        width, height = self.turn.sides(self.width, self.height)
        try:
            return self.turn.pixels(decode(self.segmentation, height=height, width=width))
        except ValueError as error:
            raise ValueError(f"object {self.id} ({self.category}): {error}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One picture with its captions and objects."""

    id: int
    path: Path
    height: int
    """In pixels of the upright picture, like everything about its objects."""
    width: int
    captions: tuple[str, ...]
    objects: tuple[SceneObject, ...]
    extra: dict[str, Any] = field(repr=False)
    """Keys of the picture's entry that COCO does not define."""
    folder: Path | None = field(default=None, repr=False)
    """The data set's folder, which holds further files named by `extra` or an object's `extra`."""

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

        Raises: ValueError if the file's size differs from that in the annotations.
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
    left_out: LeftOut = field(default_factory=LeftOut)
    """The entries of the annotation files that could not be used, by reason."""

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


def _known(wanted: Collection[str], categories: tuple[str, ...]) -> Collection[str]:
    for name in wanted:
        if name not in categories:
            raise ValueError(f"no category {name!r} among {len(categories)}{closest(name, categories)}")
    return wanted
