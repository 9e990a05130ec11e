"""Numbers over layers, depths, positions or heads as a map of coloured cells."""

import re
from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Shaped
from torch import Tensor

from lens_multimodal.views.plots.labels import escaped, token_list, visible
from lens_multimodal.views.plots.theme import colour_scale, themed


def depth_map(
    values: Shaped[Tensor, "depth pos"],
    *,
    position_names: Sequence[str],
    token: str,
    label: str = "probability",
    words: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    """How a token reads at every depth and position (logit lens); hovering shows what is read there instead.

    Args:
        values: such as `LogitLens.probability[0]`; depth 0 is what enters the first layer.
        position_names: one name per position, as `lens.to_str_tokens(prompt)` gives them.
        token: whose values these are; goes into the title.
        words: the top token of each depth and position.

    Raises: ValueError for names or words that do not fit the values.
    """
    n_depths, n_positions = values.shape
    if words is not None and [len(row) for row in words] != [n_positions] * n_depths:
        raise ValueError(f"expected {n_depths} rows of {n_positions} words, got {[len(row) for row in words]}")
    hover = [
        [
            f"{escaped(visible(name))}, depth {depth}" + (f"<br>reads {token_list([words[depth][i]])}" if words else "")
            for i, name in enumerate(position_names)
        ]
        for depth in range(n_depths)
    ]
    figure = _map(
        values,
        row_names=[str(depth) for depth in range(n_depths)],
        column_names=[visible(name) for name in position_names],
        label=label,
        hover=hover,
        signed=False,
    )
    return themed(
        figure,
        title=f"Where {escaped(visible(token))} can be read, by depth",
        xaxis_title="position",
        yaxis_title="depth (layers passed)",
    )


def sweep_map(
    values: Shaped[Tensor, "layer column"],
    *,
    layers: Sequence[int],
    column_names: Sequence[str],
    label: str = "recovered",
    columns: str = "position",
    title: str = "Activation patching, clean into corrupted",
) -> go.Figure:
    """Activation patching by layer and position or head: `PatchSweep.recovered`, or any other signed values.

    Args:
        column_names: of the positions or heads; equal names stay separate columns.
        columns: what the columns are.

    Raises: ValueError for layers or names that do not fit the values.
    """
    figure = _map(
        values,
        row_names=[str(layer) for layer in layers],
        column_names=[visible(name) for name in column_names],
        label=label,
        hover=None,
        signed=True,
    )
    return themed(figure, title=escaped(title), xaxis_title=escaped(columns), yaxis_title="layer")


def head_map(
    values: Shaped[Tensor, "layer head"], *, label: str, signed: bool, title: str, layers: Sequence[int] | None = None
) -> go.Figure:
    """One number for each attention head: attention paid to the image, attribution, effect of ablation.

    Args: layers: their numbers; None counts from 0.
    Raises: ValueError for another number of layers.
    """
    n_layers, n_heads = values.shape
    figure = _map(
        values,
        row_names=[str(layer) for layer in (range(n_layers) if layers is None else layers)],
        column_names=[str(head) for head in range(n_heads)],
        label=label,
        hover=None,
        signed=signed,
    )
    return themed(figure, title=escaped(title), xaxis_title="head", yaxis_title="layer")


def _map(
    values: Tensor,
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    label: str,
    hover: list[list[str]] | None,
    signed: bool,
) -> go.Figure:
    if tuple(values.shape) != (len(row_names), len(column_names)):
        raise ValueError(
            f"the values are {list(values.shape)}, but there are {len(row_names)} row names and {len(column_names)} "
            f"column names"
        )
    cells = [[f"{escaped(column)}, {escaped(row)}" for column in column_names] for row in row_names]
    figure = go.Figure(
        go.Heatmap(
            z=values.detach().cpu().double().numpy(),
            text=cells if hover is None else hover,
            hovertemplate=f"%{{text}}<br>{escaped(label)} %{{z:.4g}}<extra></extra>",
            colorbar={"title": {"text": escaped(label), "side": "right"}, "thickness": 14},
            xgap=1,
            ygap=1,
            **colour_scale(signed=signed),
        )
    )
    for update, names in ((figure.update_xaxes, column_names), (figure.update_yaxes, row_names)):
        update(
            tickvals=_ticks(names),
            ticktext=[escaped(_short(names[i])) for i in _ticks(names)],
            tickfont_size=12 if len(names) <= 24 else 10,
            showgrid=False,
            zeroline=False,
        )
    figure.update_layout(height=170 + max(24 * len(row_names), 140))
    return figure


def _short(name: str) -> str:
    """An image position by its row and column alone: there are many of them side by side."""
    return re.sub(r"^<image:(\d+,\d+)>$", r"\1", name)


def _ticks(names: Sequence[str]) -> list[int]:
    """Numeric places of at most about 48 ticks."""
    return list(range(0, len(names), -(-len(names) // 48) or 1))
