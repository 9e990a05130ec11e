"""Numbers laid over the picture: one per image patch, by layer or by head.

The picture is shown in grey, so that colour shows only the numbers. Cells lie where the image patches lie in the
original picture (`ImageGeometry`), cropping included.
"""

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from PIL import Image
from plotly.subplots import make_subplots
from torch import Tensor

from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.views.plots.labels import escaped, token_list
from lens_multimodal.views.plots.picture_under_axes import draw_under
from lens_multimodal.views.plots.theme import colour_bar, colour_scale, themed


def values_over_picture(
    picture: Image.Image,
    values: Float[Tensor, "grid_h grid_w"] | Float[Tensor, " image_pos"],
    geometry: ImageGeometry | ImageLayout,
    *,
    label: str = "activation",
    signed: bool = False,
    words: Sequence[str] | None = None,
) -> go.Figure:
    """One value for each image patch over the picture: a neuron's activation, attribution by position, attention.

    Args:
        values: by image patch, or by position of the image; signed values are centred on zero.
        geometry: where the patches lie on this picture; or, for values by position, the image's layout. Each of its
            grids has a panel of its own, and all share one colour scale.
        words: one text for each value, row by row, shown on hovering (such as its decoded tokens).

    Raises: ValueError for another picture, grid or number of words.
    """
    panels = _panels(values, geometry, words)
    for own, grid, _ in panels:
        _check(picture, own.shape, grid)
    titles = [f"{grid.grid_h} x {grid.grid_w}" for _, grid, _ in panels] if len(panels) > 1 else None
    figure = make_subplots(cols=len(panels), subplot_titles=titles, horizontal_spacing=0.03)
    shown = torch.cat([own.flatten() for own, _, _ in panels])
    for column, (own, grid, own_words) in enumerate(panels, start=1):
        cells = _cells(own, grid, label=label, signed=signed, words=own_words, like=shown)
        figure.add_trace(cells.update(showscale=column == len(panels)), row=1, col=column)
        draw_under(figure, picture, axis=column)
    return themed(
        figure, title=f"{escaped(label.capitalize())} over the picture", height=460, width=160 + 360 * len(panels)
    )


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
    draw_under(figure, picture)
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
        draw_under(figure, picture, axis=head + 1, side=160)
    return themed(
        figure,
        title="Attention to the image, by layer and head",
        title_pad_b=34,
        width=180 * n_columns + 150,
        height=200 * n_rows + 190,
        sliders=[_slider(numbers, shown, n_each=n_heads)],
    )


def _panels(
    values: Tensor, place: ImageGeometry | ImageLayout, words: Sequence[str] | None
) -> list[tuple[Tensor, ImageGeometry, Sequence[str] | None]]:
    """The values by row and column, the geometry and the words of each grid."""
    if isinstance(place, ImageGeometry):
        return [(values, place, words)]
    for what, given in (("value", values), ("text", words)):
        if given is not None and len(given) != place.n_positions:
            raise ValueError(f"expected one {what} for each of {place.n_positions} positions, got {len(given)}")
    return [
        (
            values[list(grid.indices)].reshape(grid.grid_h, grid.grid_w),
            geometry,
            words and [words[index] for index in grid.indices],
        )
        for grid, geometry in zip(place.grids, place.geometries, strict=True)
    ]


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
