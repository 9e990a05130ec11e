"""How much of each image patch an object covers."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.image.layout import ImageLayout


def covered_share(
    geometry: ImageGeometry, seg_mask: Bool[np.ndarray, "height width"]
) -> Float[Tensor, "grid_h grid_w"]:
    """Share of each image patch's area that a segmentation covers, 0 where a patch shows only padding.

    This is exact even where patch edges cut pixels: a pixel counts by its share inside the patch.

    Raises: ValueError for a mask of another size than the picture.
    """
    if seg_mask.shape != (geometry.height, geometry.width):
        raise ValueError(
            f"the segmentation is {seg_mask.shape[1]} x {seg_mask.shape[0]} pixels, the picture {geometry.width} x "
            f"{geometry.height}"
        )
    boxes = [geometry.patch_box(row, 0) for row in range(geometry.grid_h)]
    y = np.array([[box.top, box.bottom] for box in boxes])
    boxes = [geometry.patch_box(0, col) for col in range(geometry.grid_w)]
    x = np.array([[box.left, box.right] for box in boxes])
    down, across = _weights(y, geometry.height), _weights(x, geometry.width)
    covered = down @ seg_mask.astype(np.float64) @ across.T
    area = (y[:, 1] - y[:, 0]).clip(0)[:, None] * (x[:, 1] - x[:, 0]).clip(0)
    return torch.from_numpy(np.divide(covered, area, out=np.zeros_like(covered), where=area > 0)).float()


def covered_positions(layout: ImageLayout, seg_mask: Bool[np.ndarray, "height width"]) -> Float[Tensor, " image_pos"]:
    """`covered_share` at each position of an image, 0 at positions that show no part of the picture.

    Raises: ValueError for a mask of another size than the picture, or an image without a place in a picture.
    """
    shares = torch.zeros(layout.n_positions)
    for grid, geometry in zip(layout.grids, layout.geometries, strict=True):
        shares[list(grid.indices)] = covered_share(geometry, seg_mask).flatten()
    return shares


def mostly_covered(share: Float[Tensor, " image_pos"], covered: float) -> Bool[Tensor, " image_pos"]:
    """Which positions of an image show an object, by its share of each (`covered_positions`).

    Args: covered: the least share of a patch; if no patch reaches it, those with the largest share count.
    """
    return share >= min(covered, float(share.max()))


def _weights(intervals: Float[np.ndarray, "cell 2"], n_pixels: int) -> Float[np.ndarray, "cell pixel"]:
    """The length of each pixel (i to i + 1) inside each interval."""
    pixel = np.arange(n_pixels)
    inside = np.minimum(intervals[:, 1:], pixel + 1) - np.maximum(intervals[:, :1], pixel)
    return inside.clip(0)
