"""Image patches under an object."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_multimodal.analysis import Box, ImageGeometry
from lens_multimodal.experiments.shared.picture_state import PictureState


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
    total = np.zeros((geometry.height + 1, geometry.width + 1))
    total[1:, 1:] = seg_mask.astype(np.float64).cumsum(0).cumsum(1)
    shares = torch.zeros(geometry.grid_h, geometry.grid_w)
    for row in range(geometry.grid_h):
        for col in range(geometry.grid_w):
            box = geometry.patch_box(row, col)
            if box.area > 0:
                shares[row, col] = _inside(total, box) / box.area
    return shares


def object_patches(picture: PictureState, category: str, covered: float) -> Bool[Tensor, " image_pos"]:
    """Which image positions show a category of the scene; at least one.

    Args: covered: the least share of a patch; if no patch reaches it, the patch with the largest share counts.
    """
    share = covered_share(picture.geometry, picture.scene.seg_mask(category)).flatten()
    return share >= min(covered, float(share.max()))


def _inside(total: Float[np.ndarray, "edge_y edge_x"], box: Box) -> float:
    """Covered area within a box, from the summed area table, linear between pixel edges."""

    def up_to(x: float, y: float) -> float:
        left, top = min(math.floor(x), total.shape[1] - 2), min(math.floor(y), total.shape[0] - 2)
        along_x, along_y = x - left, y - top
        upper = total[top, left] * (1 - along_x) + total[top, left + 1] * along_x
        lower = total[top + 1, left] * (1 - along_x) + total[top + 1, left + 1] * along_x
        return float(upper * (1 - along_y) + lower * along_y)

    return (
        up_to(box.right, box.bottom)
        - up_to(box.left, box.bottom)
        - up_to(box.right, box.top)
        + up_to(box.left, box.top)
    )
