"""The layout of a size of picture, from a model's own preprocessing and encoder."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lens_multimodal.image.flat_patches import assembled, touched_patches
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.image.measured_layout import (
    measured_layout,
    painted_coordinates,
    tile_scales,
    touched_pixels,
    without_attention,
)


@torch.no_grad()
def encoder_layout(
    preprocessed: Callable[..., Mapping[str, Tensor]],
    vectors_of: Callable[[Mapping[str, Tensor]], Tensor],
    parts: Mapping[str, nn.Module],
    *,
    width: int,
    height: int,
    n_positions: int,
    side: int,
) -> ImageLayout:
    """What the first `n_positions` vectors of a picture of this size show.

    Args:
        preprocessed: of a picture and options of the image processor: the encoder's input.
        vectors_of: of the encoder's input.
        parts: encoder and projector, whose attention is switched off.
        side: height and width in pixels of the encoder's patches.
    """
    pictures = painted_coordinates(width, height)
    as_painted = {"do_rescale": False, "do_normalize": False}
    painted = [preprocessed(own, **as_painted)["pixel_values"] for own in pictures]
    inputs = preprocessed(pictures[0])
    pixels = inputs["pixel_values"]

    def vectors(own: Tensor) -> Tensor:
        return vectors_of({**inputs, "pixel_values": own})

    with without_attention(parts):
        if pixels.ndim == 2:
            painted, cells = assembled(painted, side=side)
            touched = touched_patches(vectors, pixels, cells, side=side)
        else:
            touched = touched_pixels(vectors, pixels, band=side)
    scales = tile_scales(painted, width=width, height=height)
    return measured_layout(touched[:n_positions], scales, width=width, height=height)
