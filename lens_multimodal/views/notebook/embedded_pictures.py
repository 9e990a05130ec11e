"""Small pictures embedded in HTML; CSS alone cuts them into image patches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageFilter
from torch import Tensor

from lens_multimodal.analysis.receptive_fields import ReceptiveField
from lens_multimodal.atlas import DrivingPicture
from lens_multimodal.image.geometry import Box, ImageGeometry
from lens_multimodal.views.plots.heated_picture import heat_over_picture

SIDE = 224
"""Pixels of the longer side of a picture on the page."""


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """CSS position and size of a background picture so that only one image patch shows."""

    position: str
    size: str


def shown_size(width: int, height: int, *, side: int = SIDE) -> tuple[int, int]:
    """Width and height on the page: the longer side is `side`, the shape is kept, nothing is thinner than 8."""
    scale = side / max(width, height)
    return max(8, round(width * scale)), max(8, round(height * scale))


def sprite(box: Box, *, width: int, height: int) -> Sprite | None:
    """How to show one box of a picture as a background; None for a box without area (padding)."""
    across, down = box.right - box.left, box.bottom - box.top
    if across <= 0 or down <= 0:
        return None
    return Sprite(
        position=f"{_percent(box.left, width - across)} {_percent(box.top, height - down)}",
        size=f"{_percent(width, across)} {_percent(height, down)}",
    )


def cell_style(box: Box, *, width: int, height: int) -> str:
    """CSS that places an element over a box of a picture."""
    return (
        f"left:{_percent(box.left, width)};top:{_percent(box.top, height)};"
        f"width:{_percent(box.right - box.left, width)};height:{_percent(box.bottom - box.top, height)}"
    )


def driving_picture(picture: DrivingPicture, *, src: str | None, side: int) -> dict[str, Any]:
    """A picture of an atlas as templates take it. Args: src: its small copy, None where there is none."""
    width, height = shown_size(picture.width, picture.height, side=side)
    return {
        "src": src,
        "file": picture.file,
        "activation": picture.activation,
        "width": width,
        "height": height,
        "cell": cell_style(picture.patch, width=picture.width, height=picture.height),
    }


def even_grid(grid_h: int, grid_w: int) -> ImageGeometry:
    """A geometry of one pixel per image patch, for images that came without a picture."""
    return ImageGeometry(
        width=grid_w, height=grid_h, resized_width=grid_w, resized_height=grid_h, left=0, top=0,
        input_width=grid_w, input_height=grid_h, grid_h=grid_h, grid_w=grid_w,
    )  # fmt: skip


def field_over_picture(picture: Image.Image, field: ReceptiveField, *, side: int = SIDE) -> Image.Image:
    """The activation in colour over the picture in grey, its receptive field outlined in white."""
    size = shown_size(*picture.size, side=side)
    coloured = heat_over_picture(picture, field.heat).resize(size)
    return _outlined(coloured, field.mask)


def field_alone(field: ReceptiveField, *, side: int = SIDE) -> Image.Image:
    """The activation as orange of varying opacity on a transparent picture, its receptive field outlined in grey."""
    heat = field.heat.detach().cpu().double().numpy()
    low, high = np.nanmin(heat), np.nanmax(heat)
    share = np.nan_to_num((heat - low) / (high - low) if high > low else np.zeros_like(heat))
    orange = np.empty((*heat.shape, 4), dtype=np.uint8)
    orange[..., :3] = (224, 90, 12)
    orange[..., 3] = np.rint(255 * share)
    picture = Image.fromarray(orange, mode="RGBA").resize(shown_size(heat.shape[1], heat.shape[0], side=side))
    return _outlined(picture, field.mask, colour=(125, 125, 125))


def _outlined(
    picture: Image.Image, mask: Bool[Tensor, "height width"], *, colour: tuple[int, int, int] = (255, 255, 255)
) -> Image.Image:
    inside = Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255).resize(picture.size, Image.Resampling.NEAREST)
    padded = Image.new("L", (picture.width + 4, picture.height + 4))
    padded.paste(inside, (2, 2))
    core = padded.filter(ImageFilter.MinFilter(5)).crop((2, 2, picture.width + 2, picture.height + 2))
    edge = Image.fromarray(np.asarray(inside) & ~np.asarray(core))
    result = picture.copy()
    result.paste((*colour, 255) if picture.mode == "RGBA" else colour, mask=edge)
    return result


def _percent(part: float | int, whole: float | int) -> str:
    return f"{100 * part / whole if whole else 0:.5g}%"
