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
    if isinstance(value, dict):
        if list(value.get("size", ())) != [height, width]:
            raise ValueError(
                f"{where}: its run lengths are for a picture of size {value.get('size')}, its picture has "
                f"[{height}, {width}] (height, width)"
            )
        counts = value.get("counts")
        encoded = rle.frPyObjects(value, height, width) if isinstance(counts, list) else dict(value)
        if isinstance(counts, list) and sum(counts) != height * width:
            raise ValueError(f"{where}: its run lengths cover {sum(counts)} pixels of {height * width}")
        if isinstance(counts, str):
            encoded["counts"] = counts.encode()
    elif isinstance(value, list):
        short = [p for p in value if not isinstance(p, list) or len(p) < 6 or len(p) % 2]
        if short or not value:
            raise ValueError(f"{where}: expected polygons of at least three points (x, y, ...), got {short or value}")
        encoded = rle.merge(rle.frPyObjects(value, height, width))
    else:
        raise ValueError(f"{where}: a segmentation is polygons or run lengths, got {type(value).__name__}")
    return rle.decode(encoded).astype(bool)
