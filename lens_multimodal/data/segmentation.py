"""Segmentation masks from COCO's polygons and run lengths."""

from typing import Any

import numpy as np
from jaxtyping import Bool


def decode(value: Any, *, height: int, width: int, where: str) -> Bool[np.ndarray, "height width"]:
    """The pixels of a segmentation given as polygons or run lengths, compressed or not.

    Args:
        value: as in the annotation.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        where: names the object in errors.

    Raises:
        ValueError: malformed, or made for a picture of another size.
        ImportError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask as rle
    except ImportError as error:
        raise ImportError("segmentation masks need pycocotools: pip install pycocotools") from error
    if not isinstance(value, (dict, list)):
        raise ValueError(f"{where}: a segmentation is polygons or run lengths, got {type(value).__name__}")
    check: Any = _polygons if isinstance(value, list) else _run_lengths
    checked = check(value, height, width, where)
    try:
        if isinstance(checked, list):
            encoded = rle.merge(rle.frPyObjects(checked, height, width))
        else:
            listed = isinstance(checked["counts"], list)
            encoded = rle.frPyObjects(checked, height, width) if listed else checked
        return rle.decode(encoded).astype(bool)
    except Warning:  # an error only by the user's own warning filters; it says nothing about the segmentation
        raise
    except Exception as error:  # pycocotools has no errors of its own
        raise ValueError(f"{where}: the segmentation cannot be decoded: {error}") from error


def _run_lengths(value: dict[str, Any], height: int, width: int, where: str) -> dict[str, Any]:
    if value.get("size") != [height, width]:
        raise ValueError(
            f"{where}: its run lengths are for a picture of size {value.get('size')}, its picture has "
            f"[{height}, {width}] (height, width)"
        )
    counts = value.get("counts")
    if isinstance(counts, list):
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts):
            raise ValueError(f"{where}: its run lengths are not numbers of pixels")
        if sum(counts) != height * width:
            raise ValueError(f"{where}: its run lengths cover {sum(counts)} pixels of {height * width}")
    elif not isinstance(counts, (str, bytes)):
        raise ValueError(f"{where}: run lengths have counts as a list or a string, got {type(counts).__name__}")
    return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}


def _polygons(value: list[Any], height: int, width: int, where: str) -> list[Any]:
    short = [p for p in value if not isinstance(p, list) or len(p) < 6 or len(p) % 2]
    if short or not value:
        raise ValueError(f"{where}: expected polygons of at least three points (x, y, ...), got {short or value}")
    far = 2 * max(height, width)
    if not all(isinstance(x, (int, float)) and -far <= x <= far for polygon in value for x in polygon):
        raise ValueError(f"{where}: a polygon has points that are no numbers or lie far outside of its picture")
    return value
