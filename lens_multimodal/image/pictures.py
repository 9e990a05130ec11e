"""Pictures from files, PIL images, arrays and tensors, as RGB images."""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, suppress
from io import BufferedReader, BytesIO
from itertools import islice
from pathlib import Path
from re import DOTALL, sub
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor
from tqdm.auto import tqdm

from lens_multimodal.image.orientation import UPRIGHT, Turn, exif_turn, turns_itself, without_metadata_folders
from lens_multimodal.image.to_rgb import UnclearPixels, eight_bits, to_rgb, unit_range

Picture = str | Path | Image.Image | np.ndarray | Tensor
"""A path, a PIL image, or an array or tensor: `[h, w]`, `[h, w, c]` or `[c, h, w]` with 1, 3 or 4 channels;
integers from 0 to 255 (16-bit: 65,535), floats from 0 to 1. If both layouts fit, an array is read as `[h, w, c]` and a
tensor as `[c, h, w]`."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded."""

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000")
"""File formats that are read, whatever a file's name says. PostScript is not: Pillow would run it as a program."""


class NotAPicture(ValueError):
    """A file in none of the formats that are opened, or a damaged one."""


class PictureTooLarge(ValueError):
    """A picture with more pixels than are opened."""


def as_pictures(pictures: Picture | Sequence[Picture]) -> list[Image.Image]:
    """One picture or a sequence of them, as RGB images.

    Raises: ValueError for an empty sequence; otherwise like `as_picture`.
    """
    a_batch = isinstance(pictures, (np.ndarray, Tensor)) and pictures.ndim == 4
    many: Any = pictures if a_batch or isinstance(pictures, (list, tuple)) else [pictures]
    if len(many) == 0:
        raise ValueError("got no picture; give at least one")
    return [as_picture(picture) for picture in many]


def picture_batches(
    pictures: Picture | Iterable[Picture], *, batch_size: int, progress: bool | None = None
) -> Iterator[list[Image.Image]]:
    """One picture or any number of them as RGB images, batch by batch, with a progress bar.

    Args: progress: None shows the bar after two seconds.
    Raises: ValueError for a batch size below one; otherwise like `as_picture`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    many: Any = pictures
    if isinstance(pictures, (str, Path, Image.Image)) or getattr(pictures, "ndim", 4) < 4:
        many = [pictures]
    source = iter(many)
    total = len(many) if isinstance(many, Sized) else None
    delay = 2.0 if progress is None else 0.0
    with tqdm(total=total, desc="captions", unit="picture", disable=progress is False, delay=delay) as bar:
        while batch := [as_picture(picture) for picture in islice(source, batch_size)]:
            yield batch
            bar.update(len(batch))


def as_picture(picture: Any) -> Image.Image:
    """One picture as an RGB image: transparency is laid over white, 16 bits become 8, EXIF turns are applied.

    Raises:
        FileNotFoundError: no file at the path.
        ValueError: a file that is not a picture, is damaged or larger than `MAX_PIXELS`; an array whose shape or
            range is not a picture's.
        TypeError: something else was given.
    """
    if isinstance(picture, (str, Path)):
        return _open(Path(picture))
    if isinstance(picture, Image.Image):
        _check_size(picture.width, picture.height, "the picture")
        try:
            return _as_rgb(picture)
        except UnclearPixels as error:
            raise ValueError(f"the picture holds {error}") from error
        except OSError as error:
            raise ValueError(f"the picture is damaged or cut off: {error}") from error
        except Exception as error:  # Pillow has a different one for each thing that is wrong with an image
            raise ValueError(f"the picture of mode {picture.mode} cannot be brought to RGB: {error}") from error
    if isinstance(picture, Tensor):
        own = picture.detach().cpu()
        return _from_array((own.float() if own.is_floating_point() else own).numpy(), channels_first=True)
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    raise TypeError(
        f"expected a picture (a path, a PIL image, a NumPy array or a tensor), got {type(picture).__name__}"
    )


def read_picture(
    file: Path | BytesIO, *, name: str, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """A picture file as an RGB image.

    Args:
        name: of the file, for errors.
        formats: that are opened, in Pillow's names, whatever the file's name says.
        max_pixels: that are opened, checked before anything is decoded.

    Raises: NotAPicture for a file in none of the formats, or a damaged one; PictureTooLarge.
    """
    with ExitStack() as opened:
        try:
            stream = opened.enter_context(file.open("rb")) if isinstance(file, Path) else file
            image = _identified(stream, formats)
        except Image.DecompressionBombError:
            raise PictureTooLarge(f"{name!r} has more than the {max_pixels:,} pixels allowed; scale it down") from None
        except Exception as error:  # A damaged file can fail in its decoder in any way.
            raise NotAPicture(f"{name!r} is damaged or cut off: {error}") from error
        if image is None:
            raise NotAPicture(f"{name!r} is not a picture in one of the formats {', '.join(formats)}")
        _check_size(image.width, image.height, name, max_pixels)
        try:
            without_metadata_folders(image)
            return _as_rgb(image)
        except UnclearPixels as error:
            raise NotAPicture(f"{name!r} holds {error}") from error
        except Exception as error:
            raise NotAPicture(f"{name!r} is damaged or cut off: {error}") from error


class StoredForm(NamedTuple):
    """Sides of the pixels as a file stores them, and the turn that its EXIF data ask for."""

    width: int
    height: int
    turn: Turn


def stored_form(path: Path) -> StoredForm | None:
    """How a file stores its picture, None if that cannot be read. The pixels are not decoded without need."""
    try:
        with path.open("rb") as stream:
            image = _identified(stream, FORMATS)
            if image is None:
                return None
            tags: Any = getattr(image, "tag_v2", {})  # Pillow gives a TIFF file the sides of the upright picture
            width, height = (
                tags.get(ExifTags.Base.ImageWidth, image.width),
                tags.get(ExifTags.Base.ImageLength, image.height),
            )
            plain = isinstance(image, PngImageFile) and not _may_tell_a_turn(path.read_bytes())
            return StoredForm(width, height, UPRIGHT if plain else exif_turn(image))
    except Exception:  # opening the picture will raise what is wrong with it
        return None


def _may_tell_a_turn(png: bytes) -> bool:
    """Whether a PNG file has a part that may hold a turn. It may follow the pixels, and Pillow decodes them first."""
    return any(name in png for name in (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp"))


def _open(path: Path) -> Image.Image:
    try:
        found = path.is_file()
    except OSError as error:
        raise FileNotFoundError(f"no picture at {str(path)[:200]!r}: {error.strerror}") from error
    if not found:
        raise FileNotFoundError(f"no picture at {str(path)!r}" + (": it is a folder" if path.is_dir() else ""))
    return read_picture(path, name=str(path))


def _identified(stream: BytesIO | BufferedReader, formats: tuple[str, ...]) -> Image.Image | None:
    """The picture, not yet decoded; None for a file in another format.

    `Image.open` would also warn of pictures above a limit of its own, and a warning may be an error in the user's
    program. `_check_size` has the limit of this library.
    """
    Image.init()
    prefix = stream.read(16)
    for name in formats:
        if name not in Image.OPEN:  # this Pillow was built without it
            continue
        usual, accepts = Image.OPEN[name]
        make: Callable[[Any, Any], Image.Image] = _SPARING.get(name, usual)
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # what a decoder raises for another format
            accepted = accepts is None or accepts(prefix)
            if accepted and not isinstance(accepted, str):  # a string says what this Pillow lacks for the format
                stream.seek(0)
                return make(stream, "")
    return None


class _Jpeg(JpegImageFile):
    """The first picture of a JPEG file."""

    def _open(self) -> None:
        self.info["dpi"] = (72, 72)  # or Pillow looks for it in the EXIF data, which may be broken
        super()._open()


def _avif(stream: Any, name: Any) -> Image.Image:
    """A picture in AVIF without its EXIF data, for whose faults the decoder would refuse it. AVIF has other boxes to
    say how a picture is turned."""
    content = sub(rb"(infe\x02.{7})Exif", rb"\1skip", stream.read(), flags=DOTALL)
    return Image.OPEN["AVIF"][0](BytesIO(content), name)


_SPARING: dict[str, Callable[[Any, Any], Image.Image]] = {"JPEG": _Jpeg, "AVIF": _avif}
"""In place of Pillow's own readers, which fail or warn where the EXIF data are broken."""


def _check_size(width: int, height: int, what: str, max_pixels: int = MAX_PIXELS) -> None:
    if width * height > max_pixels:
        raise PictureTooLarge(
            f"{what} is {width} x {height}, more than the {max_pixels:,} pixels allowed; scale it down first"
        )
    if width == 0 or height == 0:
        raise ValueError(f"{what} is {width} x {height}: it has no pixels")


def _as_rgb(image: Image.Image) -> Image.Image:
    _check_size(image.width, image.height, "the picture")
    rgb = to_rgb(image)
    return rgb if turns_itself(image) else exif_turn(image).image(rgb)


def _from_array(array: np.ndarray, *, channels_first: bool = False) -> Image.Image:
    shape, channels = list(array.shape), (1, 3, 4)
    if array.ndim == 3 and array.shape[0] in channels and (channels_first or array.shape[-1] not in channels):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(
            f"an array of shape {shape} is not a picture: expected [h, w], [h, w, c] or [c, h, w] with 1, 3 or 4 "
            f"channels"
        )
    _check_size(array.shape[1], array.shape[0], "the picture")
    return to_rgb(Image.fromarray(eight_bits(unit_range(array))))
