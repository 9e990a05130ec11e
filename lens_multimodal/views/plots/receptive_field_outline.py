"""A receptive field over the picture: the upsampled activation and outlines."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from lens_multimodal.views.plots.picture_under_axes import draw_under
from lens_multimodal.views.plots.theme import BLUE, colour_bar, colour_scale, themed

MOST_SAMPLES = 160
"""Pixels of a receptive field along its longer side; larger ones are sampled, so that a figure stays small."""


def receptive_field_over_picture(
    picture: Image.Image,
    heat: Float[Tensor, "height width"],
    threshold: float | int,
    *,
    seg_mask: Shaped[np.ndarray, "height width"] | None = None,
) -> go.Figure:
    """A neuron's upsampled activation with the outline of its receptive field, and of an object if one is given.

    Args:
        heat, threshold: of `analysis.ReceptiveField`.
        seg_mask: an object's pixels, outlined in blue.

    Raises: ValueError for sizes other than the picture's.
    """
    for name, shape in (("heat map", heat.shape), ("object", heat.shape if seg_mask is None else seg_mask.shape)):
        if tuple(shape) != (picture.height, picture.width):
            raise ValueError(f"the {name} is {list(shape)}, the picture {[picture.height, picture.width]}")
    every = -(-max(picture.size) // MOST_SAMPLES)
    values = heat.detach().cpu().float().numpy()[every // 2 :: every, every // 2 :: every]
    at = {
        "x": np.arange(picture.width)[every // 2 :: every] + 0.5,
        "y": np.arange(picture.height)[every // 2 :: every] + 0.5,
    }
    figure = go.Figure(
        go.Heatmap(
            z=values,
            **at,
            hovertemplate="x %{x:.0f}, y %{y:.0f}<br>activation %{z:.4g}<extra></extra>",
            colorbar=colour_bar("activation"),
            **colour_scale(signed=False),
        )
    )
    figure.add_trace(_outline(np.nan_to_num(values, nan=float(np.nanmin(values))), at, threshold, None, "field"))
    if seg_mask is not None:
        figure.add_trace(
            _outline(seg_mask[every // 2 :: every, every // 2 :: every].astype(np.float32), at, 0.5, BLUE, "object")
        )
    draw_under(figure, picture)
    return themed(figure, title="Receptive field over the picture", height=460, width=520)


def _outline(
    values: np.ndarray, at: dict[str, np.ndarray], level: float | int, colour: str | None, name: str
) -> go.Contour:
    return go.Contour(
        z=values,
        **at,
        contours={"start": level, "end": level, "size": 1, "coloring": "none"},
        line={"color": colour or "#ffffff", "width": 3},
        hoverinfo="skip",
        showlegend=False,
        name=name,
    )
