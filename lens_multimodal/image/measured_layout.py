"""What each image vector of a vision-language model shows, measured through the model's own processor and encoder.

Processors resize, crop, pad and cut pictures into tiles, and models merge, shuffle and mark patches, each by its own
rules. None of these rules is written down here. Two measurements replace them:

- **Painted coordinates.** A picture whose colours are its coordinates goes through the model's own image processor.
  The output shows, for each tile, which point of the picture a pixel comes from.
- **Touched pixels.** With the outputs of all attention modules set to zero, a vector depends on its own patch alone.
  Changing one band of pixels at a time shows which pixels belong to it.

A vector that no pixel touches shows no pixels: a mark at the end of a row, or a query of a Q-Former.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from PIL import Image
from torch import Tensor, nn

from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.image.layout import ImageLayout, PatchGrid

TOUCHED = 1e-3
"""Of the largest change of any vector: smaller changes are rounding."""

SAME_SCALE = 0.02
"""Tiles whose scales differ by less are cut from one resized picture."""

PHASES = 8
"""Pictures that are painted for one size."""

LARGEST = 254
"""The colour of the last column and row; rounding up must not pass 255."""

EDGE = 2
"""Pixels at the edge of a tile that resampling bends, left out of the fit."""


@dataclass(frozen=True, kw_only=True)
class TouchedPixels:
    """The pixels of the encoder's input that one vector depends on; ends are exclusive."""

    tile: int
    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True, kw_only=True)
class TileScale:
    """Where a tile lies in the resized picture it was cut from: `resized = picture * size / picture_size + offset`."""

    resized_width: float
    resized_height: float
    left: float
    top: float


def measured_layout(
    touched: list[TouchedPixels | None], scales: list[TileScale | None], *, width: int, height: int
) -> ImageLayout:
    """The grids that touched pixels and tiles make up.

    Tiles of one scale are parts of one resized picture and make one grid. An image whose positions do not fill grids
    gets none.
    """
    frames: list[TileScale] = []
    cells: list[dict[tuple[int, int, int, int], int]] = []
    for index, pixels in enumerate(touched):
        scale = None if pixels is None else scales[pixels.tile]
        if pixels is None or scale is None:
            continue
        box = (
            round(pixels.top - scale.top), round(pixels.bottom - scale.top),
            round(pixels.left - scale.left), round(pixels.right - scale.left),
        )  # fmt: skip
        known = (n for n, frame in enumerate(frames) if _same_scale(frame, scale) and box not in cells[n])
        number = next(known, None)
        if number is None:
            number = len(frames)
            frames.append(scale)
            cells.append({})
        cells[number][box] = index
    grids = [_grid(boxes, frame, width=width, height=height) for boxes, frame in zip(cells, frames, strict=True)]
    found = [grid for grid in grids if grid is not None]
    complete = tuple(sorted(found, key=lambda grid: -len(grid.indices))) if len(found) == len(grids) else ()
    return ImageLayout(n_positions=len(touched), grids=complete)


def touched_pixels(
    vectors: Callable[[Tensor], Float[Tensor, "pos d_model"]],
    pixels: Float[Tensor, "*tiles 3 height width"],
    *,
    band: int,
) -> list[TouchedPixels | None]:
    """For each vector the pixels it depends on, by changing one tile, row band and column band at a time.

    Args:
        vectors: of the encoder's input, without attention.
        pixels: an input of the shape in question; only its shape matters.
        band: height and width in pixels of what is changed at once, the encoder's patch size.

    Cost: one pass for each tile, each row band and each column band.
    """
    generator = torch.Generator().manual_seed(0)
    noise, other = (torch.randn(pixels.shape, generator=generator).to(pixels) for _ in range(2))
    height, width = pixels.shape[-2:]
    flat = noise.reshape(-1, 3, height, width)
    before = vectors(noise).float()

    def moved(change: Bool[Tensor, "tile height width"]) -> Float[Tensor, " pos"]:
        changed = torch.where(change[:, None].to(pixels.device), other.reshape(flat.shape), flat).reshape(noise.shape)
        return (vectors(changed).float() - before).abs().amax(dim=-1)

    def by(axis: int, size: int, step: int) -> Bool[Tensor, "band pos"]:
        passes = []
        for start in range(0, size, step):
            change = torch.zeros(len(flat), height, width, dtype=torch.bool)
            change.narrow(axis, start, min(step, size - start)).fill_(True)
            passes.append(moved(change))
        changes = torch.stack(passes).cpu()
        return changes > TOUCHED * changes.max()

    tiles, rows, columns = by(0, len(flat), 1), by(1, height, band), by(2, width, band)
    return [
        TouchedPixels(
            tile=int(tiles[:, index].nonzero()[0]),
            **dict(zip(("top", "bottom"), _extent(rows[:, index], band, height), strict=True)),
            **dict(zip(("left", "right"), _extent(columns[:, index], band, width), strict=True)),
        )
        if int(tiles[:, index].sum()) == 1 and bool(rows[:, index].any()) and bool(columns[:, index].any())
        else None
        for index in range(len(before))
    ]


def painted_coordinates(width: int, height: int) -> list[Image.Image]:
    """Pictures whose red is the column, whose green is the row, and whose blue marks that it is the picture.

    Colours have 256 levels, and resizing rounds to them again. So there are `PHASES` pictures, each brighter by a part
    of a level, and their mean is finer than a level.
    """
    across, down = np.linspace(0, LARGEST, width)[None], np.linspace(0, LARGEST, height)[:, None]
    # Rounded up in some rows and down in others, so that the mean over a column is finer too.
    by_row, by_column = (np.arange(size) * 0.618034 % 1 for size in (height, width))
    pictures = []
    for phase in range(PHASES):
        colours = np.full((height, width, 3), 255, dtype=np.uint8)
        colours[..., 0] = np.floor(across + by_row[:, None] + phase / PHASES)
        colours[..., 1] = np.floor(down + by_column[None] + phase / PHASES)
        pictures.append(Image.fromarray(colours))
    return pictures


def tile_scales(
    painted: Sequence[Shaped[Tensor, "*tiles 3 tile_height tile_width"]], *, width: int, height: int
) -> list[TileScale | None]:
    """Where each tile of a processed picture lies; None for a tile of padding alone.

    Args: painted: the `painted_coordinates` pictures, processed: pixels from 0 to 255, neither rescaled nor normalised.
    """
    scales: list[TileScale | None] = []
    mean = torch.stack([pixels.double() for pixels in painted]).mean(dim=0)
    brighter = (PHASES - 1) / (2 * PHASES)
    for red, green, blue in mean.reshape(-1, 3, *mean.shape[-2:]):
        shown = blue > 254
        across = _line(red - brighter, shown, axis=1, size=width)
        down = _line(green - brighter, shown, axis=0, size=height)
        if across is None or down is None:
            scales.append(None)
            continue
        (x_per_pixel, x_first), (y_per_pixel, y_first) = across, down
        scales.append(
            TileScale(
                resized_width=width / x_per_pixel,
                resized_height=height / y_per_pixel,
                left=-x_first / x_per_pixel,
                top=-y_first / y_per_pixel,
            )
        )
    return scales


@contextmanager
def without_attention(parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Set the output of every attention module to zero, so that each patch is on its own."""

    def silence(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return torch.zeros_like(output[0]), *output[1:]
        return torch.zeros_like(output)

    handles = [module.register_forward_hook(silence) for part in parts.values() for module in _attention_modules(part)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attention_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules whose class is an attention by name (`CLIPAttention`, ...)."""
    if type(module).__name__.endswith("Attention"):
        yield module
    else:
        for child in module.children():
            yield from _attention_modules(child)


def _line(colour: Tensor, shown: Tensor, *, axis: int, size: int) -> tuple[float, float] | None:
    """Picture coordinate by tile coordinate along an axis, `(slope, value at 0)`, by least squares.

    Both count edges, so the centre of pixel i is at i + 0.5.
    """
    lines = shown.any(dim=1 - axis).nonzero().flatten()
    if len(lines) == 0:
        return None
    n_lines = shown.sum(dim=1 - axis).double()
    mean = torch.where(shown, colour, 0.0).sum(dim=1 - axis) / n_lines.clamp(min=1)
    inner = lines[EDGE:-EDGE] if len(lines) > 2 * EDGE + 1 else lines
    # The first and last colour also fill what lies beyond the centres of the outermost pixels.
    inner = inner[(mean[inner] > 0.5) & (mean[inner] < LARGEST - 0.5)] if size > 2 else inner
    if len(inner) < 2:
        first, last = float(lines[0]), float(lines[-1] + 1)
        return size / (last - first), -first * size / (last - first)
    at = inner.double() + 0.5
    value = mean[inner] / LARGEST * (size - 1) + 0.5
    slope = float(((at - at.mean()) * (value - value.mean())).sum() / ((at - at.mean()) ** 2).sum())
    return slope, float(value.mean() - slope * at.mean())


def _extent(touched: Bool[Tensor, " band"], band: int, size: int) -> tuple[int, int]:
    bands = touched.nonzero().flatten()
    return int(bands[0]) * band, min((int(bands[-1]) + 1) * band, size)


def _same_scale(a: TileScale, b: TileScale) -> bool:
    return (
        abs(a.resized_width / b.resized_width - 1) < SAME_SCALE
        and abs(a.resized_height / b.resized_height - 1) < SAME_SCALE
    )


def _grid(
    boxes: dict[tuple[int, int, int, int], int], frame: TileScale, *, width: int, height: int
) -> PatchGrid | None:
    """The grid that boxes in one resized picture fill, or None if they leave a hole."""
    tops = sorted({top + bottom for top, bottom, _, _ in boxes})
    lefts = sorted({left + right for _, _, left, right in boxes})
    at = {(tops.index(t + b), lefts.index(le + r)): index for (t, b, le, r), index in boxes.items()}
    if len(at) != len(boxes) or len(at) != len(tops) * len(lefts):
        return None
    first_x, first_y = min(box[2] for box in boxes), min(box[0] for box in boxes)
    geometry = ImageGeometry(
        width=width,
        height=height,
        resized_width=max(1, round(frame.resized_width)),
        resized_height=max(1, round(frame.resized_height)),
        left=-first_x,
        top=-first_y,
        input_width=max(box[3] for box in boxes) - first_x,
        input_height=max(box[1] for box in boxes) - first_y,
        grid_h=len(tops),
        grid_w=len(lefts),
    )
    indices = tuple(at[row, col] for row in range(len(tops)) for col in range(len(lefts)))
    return PatchGrid(grid_h=len(tops), grid_w=len(lefts), indices=indices, geometry=geometry)
