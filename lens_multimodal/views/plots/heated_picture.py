"""A neuron's activation laid over the picture."""

from functools import cache

import numpy as np
from jaxtyping import Float, Float64
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb
from torch import Tensor


def heat_over_picture(
    picture: Image.Image, heat: Float[Tensor, "height width"], *, opacity: float = 0.65
) -> Image.Image:
    """The picture in grey with the heat in colour where it is high; pixels that the encoder never saw stay grey.

    Args:
        heat: one value per pixel of the picture, NaN where it was cropped off.
        opacity: of the colour at the hottest pixel.

    Raises: ValueError for a heat map of another size.
    """
    if tuple(heat.shape) != (picture.height, picture.width):
        raise ValueError(
            f"the heat map is {list(heat.shape)}, the picture {[picture.height, picture.width]} (height, width)"
        )
    values = heat.detach().cpu().numpy().astype(np.float64)
    low, high = np.nanmin(values), np.nanmax(values)
    share = np.nan_to_num((values - low) / (high - low) if high > low else np.zeros_like(values))
    coloured = _colours()[np.rint(share * 255).astype(int)]
    grey = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float64)
    weight = opacity * share[..., None]
    return Image.fromarray(np.rint(grey * (1 - weight) + coloured * weight).astype(np.uint8))


@cache
def _colours() -> Float64[np.ndarray, "256 3"]:
    """Red, green and blue from cold to hot, 0 to 255."""
    return np.array([unlabel_rgb(colour) for colour in sample_colorscale("Inferno", np.linspace(0, 1, 256))])
