"""Segmentation masks from COCO's polygons and run lengths."""

from typing import Any

import numpy as np
from jaxtyping import Bool

LONGEST_RUN_BITS = 35
"""Bits of one run in the compressed form: seven characters, which hold more than any picture has pixels."""


def decode(value: Any, *, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """The pixels of a segmentation given as polygons or run lengths, compressed or not.

    Args:
        value: as in the annotation. Parts of a polygon with fewer than three points cover nothing.
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Raises:
        ValueError: malformed, or made for a picture of another size.
        ImportError: polygons, and pycocotools is not installed.
    """
    if isinstance(value, list):
        return _filled(_polygons(value, height, width), height, width)
    runs = _runs(value, height, width)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def check(value: Any, *, height: int, width: int) -> None:
    """Raise what `decode` would raise, and ValueError for a mask without a pixel."""
    if isinstance(value, list):
        covered = _area(_polygons(value, height, width), height, width)
    else:
        covered = sum(_runs(value, height, width)[1::2])
    if not covered:
        raise ValueError("it covers no pixel of its picture")


def uncompressed(counts: str | bytes) -> list[int]:
    """Run lengths from COCO's compressed form (`rleFrString` in pycocotools' maskApi.c).

    Five bits a character, the lowest first; from the fourth run on, the difference from the last run but one.

    Raises: ValueError for a character that the form does not have, or a run that does not end.
    """
    runs: list[int] = []
    value = bits = 0
    for character in counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts:
        six = character - 48
        if not 0 <= six < 64 or bits >= LONGEST_RUN_BITS:
            raise ValueError("its compressed run lengths are malformed")
        value |= (six & 31) << bits
        bits += 5
        if six & 32:
            continue
        if six & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = bits = 0
    if bits:
        raise ValueError("its compressed run lengths are cut off")
    return runs


def _runs(value: Any, height: int, width: int) -> list[int]:
    """Run lengths that cover the picture exactly; otherwise pycocotools would return memory that it never wrote."""
    if not isinstance(value, dict):
        raise ValueError(f"expected polygons or run lengths, got {type(value).__name__}")
    if value.get("size") != [height, width]:
        raise ValueError(
            f"its run lengths are for a picture of size {value.get('size')}, its picture has [{height}, {width}] "
            f"(height, width)"
        )
    counts = value.get("counts")
    if not isinstance(counts, (list, str, bytes)):
        raise ValueError(f"run lengths have counts as a list or a string, got {type(counts).__name__}")
    runs = counts if isinstance(counts, list) else uncompressed(counts)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in runs):
        raise ValueError("its run lengths are not numbers of pixels")
    if sum(runs) != height * width:
        raise ValueError(f"its run lengths cover {sum(runs)} pixels of {height * width}")
    return runs


def _polygons(value: list[Any], height: int, width: int) -> list[list[int | float]]:
    """The polygons of a list that have an inside."""
    far = 2 * max(height, width)
    for part in value:
        if not isinstance(part, list) or len(part) % 2 or not {type(x) for x in part} <= {int, float}:
            raise ValueError(f"expected polygons of numbers x, y, x, y, ..., got {str(part)[:80]}")
        if not all(-far <= x <= far for x in part):
            raise ValueError("a polygon has points that are not finite or lie far outside of its picture")
    found = [part for part in value if len(part) >= 6]
    if not found:
        raise ValueError(f"expected a polygon of at least three points, got {str(value)[:80]}")
    return found


def _filled(polygons: list[list[int | float]], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    rle = _pycocotools()
    filled: np.ndarray = rle.decode(rle.merge(rle.frPyObjects(polygons, height, width))).astype(bool)
    return filled


def _area(polygons: list[list[int | float]], height: int, width: int) -> int:
    """The pixels of all polygons together, counted without making a mask."""
    rle = _pycocotools()
    return int(rle.area(rle.merge(rle.frPyObjects(polygons, height, width))))


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError("segmentation masks need pycocotools: pip install pycocotools") from error
    return mask
