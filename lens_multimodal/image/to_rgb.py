"""Pillow's images of every mode, and arrays of numbers, as RGB with eight bits."""

from typing import Any

import numpy as np
from PIL import Image

WHITE_IS_ZERO, SIGNED = 0, 2
"""Of TIFF's tags PhotometricInterpretation and SampleFormat."""

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339


class UnclearPixels(ValueError):
    """Pixels for which neither the file nor Pillow says what is white or transparent."""


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB: transparency is laid over white, 16 bits become 8. EXIF is ignored.

    Raises:
        UnclearPixels: 32-bit or signed integers, or 16-bit colours with one that is transparent.
        ValueError: floats outside of 0..1.
        Exception: whatever Pillow raises for a damaged file.
    """
    raw = _raw_mode(image)
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _wide_grey(image)
    if image.mode == "L" and SIGNED in _tag(image, SAMPLE_FORMAT):
        raise UnclearPixels("signed 8-bit integers, for which no white is defined; convert them to 0..255")
    if image.mode in ("1", "L", "RGB") and image.info.get("transparency") is not None:
        image = image.copy()
        image.info["transparency"] = _transparent_colour(image, raw)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def unit_range(array: np.ndarray) -> np.ndarray:
    """Pixels of any numeric type as float64 from 0 to 1.

    Raises: ValueError for numbers outside of the range of their type.
    """
    if array.dtype == np.bool_:
        return array.astype(np.float64)
    if np.issubdtype(array.dtype, np.integer):
        top = 65535.0 if array.dtype == np.uint16 else 255.0
        lowest, highest = int(array.min()), int(array.max())
        if lowest < 0 or highest > top:
            raise ValueError(f"integer pixels must lie in 0..{top:.0f}, got {lowest}..{highest}")
        return array.astype(np.float64) / top
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ValueError("the picture holds NaN or infinite pixels")
        low, high = float(array.min()), float(array.max())
        if low < -1e-6 or high > 1 + 1e-6:
            raise ValueError(
                f"float pixels must lie in 0..1, got {low:g}..{high:g}: divide by 255, or undo the normalisation"
            )
        return array.astype(np.float64)
    raise ValueError(f"pixels of type {array.dtype} are not numbers")


def eight_bits(unit: np.ndarray) -> np.ndarray:
    """Pixels from 0 to 1 as bytes."""
    return np.rint(np.clip(unit, 0.0, 1.0) * 255.0).astype(np.uint8)


def _wide_grey(image: Image.Image) -> Image.Image:
    """Grey values of 12 or 16 bits, or floats."""
    pixels = np.asarray(image)
    unit = unit_range(pixels) if image.mode == "F" else pixels.astype(np.float64) / _white(image, pixels)
    if WHITE_IS_ZERO in _tag(image, PHOTOMETRIC):
        unit = 1.0 - unit
    transparent = image.info.get("transparency")
    if transparent is not None and image.mode != "F":
        unit = np.where(pixels == int(transparent), 1.0, unit)
    return Image.fromarray(eight_bits(unit)).convert("RGB")


def _white(image: Image.Image, pixels: np.ndarray) -> float:
    """The largest integer that the pixels can have."""
    if image.mode != "I":
        return 4095.0 if 12 in _tag(image, BITS_PER_SAMPLE) else 65535.0
    if image.format in ("PNG", "PPM"):  # Pillow's older form of 16 bits
        return 65535.0
    lowest, highest = int(pixels.min()), int(pixels.max())
    if image.format == "TIFF" or lowest < 0 or highest > 65535 or 0 < highest < 256:
        raise UnclearPixels(
            f"32-bit or signed integers in {lowest}..{highest}, and nothing says which one is white; convert "
            f"them to uint8, uint16, or floats from 0 to 1"
        )
    return 65535.0


def _transparent_colour(image: Image.Image, raw: str) -> Any:
    """The transparent colour of a PNG in the values that Pillow gives the pixels; Pillow reports the file's value."""
    colour: Any = image.info["transparency"]
    if image.mode == "RGB":
        if raw.startswith("RGB;16") or max(colour) > 255:
            raise UnclearPixels(
                "16-bit colours, one of them transparent: only their upper halves are read, so it cannot be "
                "distinguished from its neighbours; convert the picture to an alpha channel"
            )
        return colour
    return {"1": 255 * bool(colour), "L;2": 85 * colour, "L;4": 17 * colour}.get(raw, colour)


def _raw_mode(image: Image.Image) -> str:
    """How the file stores the pixels, in Pillow's terms; empty for an image that is loaded."""
    tiles: Any = getattr(image, "tile", None) or [(None, None, None, "")]
    arguments = tiles[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _tag(image: Image.Image, number: int) -> tuple[Any, ...]:
    """The values of a tag of a TIFF file, none for other files."""
    value = getattr(image, "tag_v2", {}).get(number, ())
    return value if isinstance(value, tuple) else (value,)
