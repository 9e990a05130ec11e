"""Numbers laid over the picture: one per image patch, by layer, by head, or a receptive field.

The picture is shown in grey, so that colour shows only the numbers. Cells lie where the image patches lie in the
original picture (`ImageGeometry`), cropping included.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from plotly.subplots import make_subplots
from torch import Tensor

from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.views.plots.labels import escaped, token_list
from lens_multimodal.views.plots.theme import BLUE, colour_bar, colour_scale, themed

LONGEST_SIDE = 336
"""Pixels of the embedded picture."""

MOST_SAMPLES = 160
"""Pixels of a receptive field along its longer side; larger ones are sampled, so that a figure stays small."""


def values_over_picture(
    picture: Image.Image,
    values: Float[Tensor, "grid_h grid_w"],
    geometry: ImageGeometry,
    *,
    label: str = "activation",
    signed: bool = False,
    words: Sequence[str] | None = None,
) -> go.Figure:
    """One value for each image patch over the picture: a neuron's activation, attribution by position, attention.

    Args:
        values: by image patch; signed values are centred on zero.
        geometry: where the patches lie on this picture.
        words: one text for each patch, row by row, shown on hovering (such as its decoded tokens).

    Raises: ValueError for another picture, grid or number of words.
    """
    _check(picture, values.shape, geometry)
    figure = go.Figure()
    figure.add_trace(_cells(values, geometry, label=label, signed=signed, words=words))
    _under(figure, picture)
    return themed(figure, title=f"{escaped(label.capitalize())} over the picture", height=460, width=520)


def layers_over_picture(
    picture: Image.Image,
    values: Float[Tensor, "layer grid_h grid_w"],
    geometry: ImageGeometry,
    *,
    layers: Sequence[int],
    label: str = "recovered",
    signed: bool = True,
) -> go.Figure:
    """One value for each layer and image patch, such as a patching sweep; a slider selects the layer.

    All layers share one colour scale.

    Args: values: such as `sweep.recovered[:, image positions]` reshaped to the patch grid.
    Raises: ValueError for another picture, grid or number of layers.
    """
    if len(layers) != len(values):
        raise ValueError(f"got {len(values)} layers of values and {len(layers)} layer numbers")
    _check(picture, values.shape[1:], geometry)
    figure = go.Figure()
    shown = _strongest(values)
    for index, layer in enumerate(layers):
        cells = _cells(values[index], geometry, label=label, signed=signed, words=None, like=values)
        figure.add_trace(cells.update(visible=index == shown, name=f"layer {layer}"))
    _under(figure, picture)
    slider = _slider(layers, shown, n_each=1)
    return themed(figure, title=f"{escaped(label.capitalize())} by layer", height=520, width=520, sliders=[slider])


def attention_over_picture(
    picture: Image.Image,
    attention: Float[Tensor, "layer head grid_h grid_w"],
    geometry: ImageGeometry,
    *,
    layers: Sequence[int] | None = None,
) -> go.Figure:
    """How much a text position attends to each image patch: one panel per head; a slider selects the layer.

    Args:
        attention: from one position, such as `pattern[0, :, -1, image_pos]` of each layer's
            `blocks.{layer}.attn.hook_pattern`, reshaped to the patch grid.
        layers: their numbers; None counts from 0.

    Raises: ValueError for another picture, grid or number of layers.
    """
    numbers = list(range(len(attention))) if layers is None else list(layers)
    if len(numbers) != len(attention):
        raise ValueError(f"got attention of {len(attention)} layers and {len(numbers)} layer numbers")
    _check(picture, attention.shape[2:], geometry)
    n_heads = attention.shape[1]
    n_columns = min(n_heads, 4)
    n_rows = -(-n_heads // n_columns)
    figure = make_subplots(
        rows=n_rows,
        cols=n_columns,
        subplot_titles=[f"head {head}" for head in range(n_heads)],
        horizontal_spacing=0.02,
        vertical_spacing=0.2 / n_rows,
    )
    shown = _strongest(attention.sum(dim=1))
    for index, layer in enumerate(numbers):
        for head in range(n_heads):
            row, column = divmod(head, n_columns)
            cells = _cells(
                attention[index, head], geometry, label="attention", signed=False, words=None, like=attention[index]
            )
            cells.update(visible=index == shown, name=f"layer {layer}, head {head}", showscale=head == 0)
            figure.add_trace(cells, row=row + 1, col=column + 1)
    for head in range(n_heads):
        _under(figure, picture, axis=head + 1, side=160)
    return themed(
        figure,
        title="Attention to the image, by layer and head",
        title_pad_b=34,
        width=180 * n_columns + 150,
        height=200 * n_rows + 190,
        sliders=[_slider(numbers, shown, n_each=n_heads)],
    )


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
    _under(figure, picture)
    return themed(figure, title="Receptive field over the picture", height=460, width=520)


def _cells(
    values: Tensor,
    geometry: ImageGeometry,
    *,
    label: str,
    signed: bool,
    words: Sequence[str] | None,
    like: Tensor | None = None,
) -> go.Heatmap:
    grid_h, grid_w = geometry.grid_h, geometry.grid_w
    if words is not None and len(words) != grid_h * grid_w:
        raise ValueError(f"got {len(words)} words for {grid_h * grid_w} image patches")
    top_row = [geometry.patch_box(0, col) for col in range(grid_w)]
    left_column = [geometry.patch_box(row, 0) for row in range(grid_h)]
    scaled = values if like is None else like
    largest = float(scaled.abs().max())
    limits = (
        {"zmin": -largest, "zmax": largest} if signed else {"zmin": float(scaled.min()), "zmax": float(scaled.max())}
    )
    text = [
        [
            f"row {row}, column {col}" + (f"<br>{token_list([words[row * grid_w + col]])}" if words else "")
            for col in range(grid_w)
        ]
        for row in range(grid_h)
    ]
    return go.Heatmap(
        z=values.detach().cpu().double().numpy(),
        x=[top_row[0].left, *(box.right for box in top_row)],
        y=[left_column[0].top, *(box.bottom for box in left_column)],
        text=text,
        hovertemplate=f"%{{text}}<br>{escaped(label)} %{{z:.4g}}<extra></extra>",
        colorbar=colour_bar(label),
        **limits,
        colorscale=colour_scale(signed=signed)["colorscale"],
    )


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


def _under(figure: go.Figure, picture: Image.Image, *, axis: int = 1, side: int = LONGEST_SIDE) -> None:
    """Draw the picture in grey under the axes with this number; pixels are square, rows count downwards."""
    number = "" if axis == 1 else str(axis)
    grey = picture.convert("L")
    grey.thumbnail((side, side))
    figure.add_layout_image(
        source=grey,
        xref=f"x{number}",
        yref=f"y{number}",
        x=0,
        y=0,
        sizex=picture.width,
        sizey=picture.height,
        sizing="stretch",
        layer="below",
    )
    hidden = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}
    figure.update_layout(
        {
            f"xaxis{number}": {"range": [0, picture.width], "constrain": "domain", **hidden},
            f"yaxis{number}": {
                "range": [picture.height, 0],
                "scaleanchor": f"x{number}",
                "constrain": "domain",
                **hidden,
            },
        }
    )


def _slider(layers: Sequence[int], shown: int, *, n_each: int) -> dict[str, object]:
    """Steps that make one layer's traces visible at a time."""
    steps = [
        {
            "method": "restyle",
            "label": str(layer),
            "args": [{"visible": [i // n_each == index for i in range(len(layers) * n_each)]}],
        }
        for index, layer in enumerate(layers)
    ]
    return {"active": shown, "steps": steps, "currentvalue": {"prefix": "layer "}, "pad": {"t": 10}}


def _strongest(values: Float[Tensor, "layer grid_h grid_w"]) -> int:
    return int(torch.stack([layer.abs().max() for layer in values]).argmax())


def _check(picture: Image.Image, grid: Sequence[int], geometry: ImageGeometry) -> None:
    if picture.size != (geometry.width, geometry.height):
        raise ValueError(
            f"the picture is {picture.width} x {picture.height}, the geometry is for {geometry.width} x "
            f"{geometry.height}"
        )
    if tuple(grid) != (geometry.grid_h, geometry.grid_w):
        raise ValueError(
            f"expected one value for each image patch, [{geometry.grid_h}, {geometry.grid_w}], got {list(grid)}"
        )
