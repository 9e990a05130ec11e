"""From a drawing to a square cut-out: rendered, cropped to what is visible, centred, checked."""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import resvg_py
from jaxtyping import Bool, UInt8
from PIL import Image

from recipes.tiny.pictures.drawing import Drawing, Unusable

LARGEST = 40_000_000
"""Pixels of the largest raster worth decoding; the few above it are posters."""
VISIBLE = 16
"""Alpha from which a pixel counts as visible."""


def cutout(drawing: Drawing, size: int) -> UInt8[np.ndarray, "size size 4"]:
    """Render one drawing as RGBA with straight alpha.

    Raises: Unusable with the reason (opaque tile, one colour, too large, ...).
    """
    image = _open(drawing, size)
    return square(image, size)


def square(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 4"]:
    """Crop to the visible box, keep the aspect, centre in a square; refuse anything that is not an object.

    Raises: Unusable for pictures without an outline (tiles), specks, slivers and grey silhouettes.
    """
    alpha = np.asarray(image.getchannel("A"))
    rows, columns = np.flatnonzero((alpha > VISIBLE).any(1)), np.flatnonzero((alpha > VISIBLE).any(0))
    if rows.size < 8 or columns.size < 8:
        raise Unusable("nearly empty")
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    width, height = box[2] - box[0], box[3] - box[1]
    if max(width, height) > 6 * min(width, height):
        raise Unusable("sliver")
    covered = (alpha[box[1] : box[3], box[0] : box[2]] > VISIBLE).mean()
    if covered > 0.985:
        raise Unusable("opaque tile")
    if covered < 0.06:
        raise Unusable("thin lines")
    scale = size / max(width, height)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    # premultiplied while resizing, so that invisible colours do not bleed in
    small = image.crop(box).convert("RGBa").resize(fitted, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = np.zeros((size, size, 4), np.uint8)
    top, left = (size - fitted[1]) // 2, (size - fitted[0]) // 2
    canvas[top : top + fitted[1], left : left + fitted[0]] = np.asarray(small)
    canvas[canvas[..., 3] == 0] = 0
    colours = canvas[canvas[..., 3] > 200][:, :3]
    if len(colours) < 32:
        raise Unusable("transparent")
    if colours.std(axis=0).max() < 6 and np.ptp(colours.mean(axis=0)) < 24:
        raise Unusable("one grey")
    return canvas


def _open(drawing: Drawing, size: int) -> Image.Image:
    if drawing.kind == "svg":
        return _vector(drawing.content, size)
    if drawing.kind == "model":
        from recipes.tiny.pictures.models import view  # its libraries are slow to load

        return view(drawing.content, side=drawing.side, size=size)
    raw = read(drawing.content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(io.BytesIO(raw))
            if image.width * image.height > LARGEST:
                raise Unusable("too large")
            if drawing.kind == "on_white":
                return _without_paper(image.convert("RGB"))
            if image.width * image.height > 4_000_000 and image.mode in ("RGB", "RGBA", "L", "LA"):
                image = image.reduce(max(1, max(image.size) // (4 * size)))
            image = image.convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as broken:
        raise Unusable("unreadable") from broken
    image.thumbnail((3 * size, 3 * size), Image.Resampling.BOX)
    return image


def read(content: str) -> bytes:
    """Bytes of `path` or of `archive.zip::member`."""
    path, _, member = content.partition("::")
    if not member:
        return Path(path).read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(member)


def _vector(svg: str, size: int) -> Image.Image:
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size * 3 // 2)
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    except (ValueError, OSError) as broken:
        raise Unusable("unreadable") from broken


def _without_paper(image: Image.Image) -> Image.Image:
    """White that is connected to the border becomes transparent."""
    rgb = np.asarray(image)
    white = np.asarray((rgb > 236).all(2))
    paper = np.zeros_like(white)
    paper[[0, -1]], paper[:, [0, -1]] = white[[0, -1]], white[:, [0, -1]]
    while True:
        grown = _spread(paper) & white
        if (grown == paper).all():
            break
        paper = grown
    return Image.fromarray(np.dstack([rgb, np.where(paper, 0, 255).astype(np.uint8)]), "RGBA")


def _spread(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    grown = region.copy()
    grown[1:] |= region[:-1]
    grown[:-1] |= region[1:]
    grown[:, 1:] |= region[:, :-1]
    grown[:, :-1] |= region[:, 1:]
    return grown
