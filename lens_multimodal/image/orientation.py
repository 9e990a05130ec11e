"""How EXIF says that a stored picture must be turned, for its pixels and for boxes drawn on them."""

from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin


class Turn(NamedTuple):
    """Mirror the columns, mirror the rows, then exchange rows and columns: every one of EXIF's eight orientations."""

    mirror_x: bool = False
    mirror_y: bool = False
    transpose: bool = False

    def pixels(self, stored: np.ndarray) -> np.ndarray:
        """Pixels `[height, width, ...]` turned upright."""
        mirrored = stored[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]
        return np.ascontiguousarray(mirrored.swapaxes(0, 1) if self.transpose else mirrored)

    def image(self, stored: Image.Image) -> Image.Image:
        """An RGB image turned upright."""
        return stored if self == UPRIGHT else Image.fromarray(self.pixels(np.asarray(stored)))

    def sides(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the upright picture, from those of the stored one."""
        return (height, width) if self.transpose else (width, height)

    def box(
        self, box: tuple[float, float, float, float], *, width: int, height: int
    ) -> tuple[float, float, float, float]:
        """A box (left, top, width, height) turned upright with a picture that is stored with these sides."""
        left, top, across, down = box
        left = width - left - across if self.mirror_x else left
        top = height - top - down if self.mirror_y else top
        return (top, left, down, across) if self.transpose else (left, top, across, down)


UPRIGHT = Turn()

TURNS = {
    2: Turn(mirror_x=True),
    3: Turn(mirror_x=True, mirror_y=True),
    4: Turn(mirror_y=True),
    5: Turn(transpose=True),
    6: Turn(mirror_y=True, transpose=True),
    7: Turn(mirror_x=True, mirror_y=True, transpose=True),
    8: Turn(mirror_x=True, transpose=True),
}
"""By EXIF's orientation (EXIF 3.0, section 4.6.5.1.6); 1 is upright."""


def exif_turn(image: Image.Image) -> Turn:
    """The turn that the EXIF data of an image ask for, none if they are broken; of a TIFF file, before it is loaded."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), UPRIGHT)
    except Exception:  # Pillow fails in many ways on broken EXIF data, none of which says anything about the pixels
        return UPRIGHT


def turns_itself(image: Image.Image) -> bool:
    """Whether Pillow turns the pixels upright while it loads them."""
    return isinstance(image, TiffImagePlugin.TiffImageFile)


def without_metadata_folders(image: Image.Image) -> None:
    """Keep Pillow from following the pointers to EXIF and GPS data, often broken, while it loads a TIFF file."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        exif = image.getexif()
        for pointer in ExifTags.IFD:
            if pointer in exif:
                del exif[pointer]
