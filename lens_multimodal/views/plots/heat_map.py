"""Numbers over layers, depths, positions or heads as a map of coloured cells."""

import re
from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Shaped
from torch import Tensor

from lens_multimodal.views.plots.labels import escaped, token_list, visible
from lens_multimodal.views.plots.theme import colour_bar, colour_scale, themed

MOST_COLUMNS = 20
"""Labels below a map: more would overlap or be too small to read."""

MOST_WORDS = 14
"""Positions of a depth map whose cells have room for a word."""


def depth_map(
    values: Shaped[Tensor, "depth pos"],
    *,
    position_names: Sequence[str],
    token: str,
    label: str = "probability",
    words: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    """How probable a token is at every depth and position (logit lens); hovering shows the top token there.

    Args:
        values: such as `LogitLens.probability[0]`; depth 0 is what enters the first layer.
        position_names: one name per position, as `lens.to_str_tokens(prompt)` gives them.
        token: the token whose values these are, for the title.
        words: the top token of each depth and position; written into the cells of at most `MOST_WORDS` positions,
            otherwise shown on hovering.

    Raises: ValueError for names or words that do not fit the values.
    """
    n_depths, n_positions = values.shape
    if words is not None and [len(row) for row in words] != [n_positions] * n_depths:
        raise ValueError(f"expected {n_depths} rows of {n_positions} words, got {[len(row) for row in words]}")
    hover = [
        [
            f"{escaped(visible(name))}, depth {depth}"
            + (f"<br>top token {token_list([words[depth][i]])}" if words else "")
            for i, name in enumerate(position_names)
        ]
        for depth in range(n_depths)
    ]
    return _map(
        values,
        rows=range(n_depths),
        columns=[visible(name) for name in position_names],
        label=label,
        hover=hover,
        words=words if n_positions <= MOST_WORDS else None,
        signed=False,
        title=f"{label.capitalize()} of {visible(token)} by depth",
        x_title="position (row,column of the image patch, or the word)" if _has_patches(position_names) else "position",
        y_title="depth (layers passed)",
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
    names = [visible(name) for name in column_names]
    return _map(values, rows=layers, columns=names, label=label, signed=True, title=title, x_title=columns)


def head_map(
    values: Shaped[Tensor, "layer head"], *, label: str, signed: bool, title: str, layers: Sequence[int] | None = None
) -> go.Figure:
    """One number for each attention head: attention paid to the image, attribution, effect of ablation.

    Args: layers: their numbers; None counts from 0.
    Raises: ValueError for another number of layers.
    """
    n_layers, n_heads = values.shape
    rows, heads = range(n_layers) if layers is None else layers, [str(head) for head in range(n_heads)]
    return _map(values, rows=rows, columns=heads, label=label, signed=signed, title=title, x_title="head")


def _map(
    values: Tensor,
    *,
    rows: Sequence[int],
    columns: Sequence[str],
    label: str,
    signed: bool,
    title: str,
    x_title: str,
    y_title: str = "layer",
    hover: list[list[str]] | None = None,
    words: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    if tuple(values.shape) != (len(rows), len(columns)):
        raise ValueError(
            f"the values are {list(values.shape)}, but there are {len(rows)} row names and {len(columns)} column names"
        )
    row_names = [str(row) for row in rows]
    cells = [[f"{escaped(column)}, {escaped(row)}" for column in columns] for row in row_names]
    figure = go.Figure(
        go.Heatmap(
            z=values.detach().cpu().double().numpy(),
            text=cells if hover is None else hover,
            hovertemplate=f"%{{text}}<br>{escaped(label)} %{{z:.4g}}<extra></extra>",
            colorbar=colour_bar(label),
            xgap=1,
            ygap=1,
            **colour_scale(signed=signed),
        )
    )
    if words is not None:
        figure.update_traces(
            customdata=[[escaped(visible(word)) for word in row] for row in words],
            texttemplate="%{customdata}",
            textfont_size=11,
        )
    for update, names, most in ((figure.update_xaxes, columns, MOST_COLUMNS), (figure.update_yaxes, row_names, 48)):
        shown = _ticks(names, most)
        update(
            tickvals=shown,
            ticktext=[escaped(_short(names[i])) for i in shown],
            tickfont_size=12,
            showgrid=False,
            zeroline=False,
        )
    return themed(
        figure,
        title=escaped(title),
        xaxis_title=escaped(x_title),
        yaxis_title=escaped(y_title),
        height=170 + max(24 * len(rows), 140),
    )


def _short(name: str) -> str:
    """The short name of an image position, its row and column: many of them are shown side by side."""
    return re.sub(r"^<image:(\d+,\d+)>$", r"\1", name)


def _has_patches(names: Sequence[str]) -> bool:
    return any(name.startswith("<image:") for name in names)


def _ticks(names: Sequence[str], most: int) -> list[int]:
    """Numeric places of the ticks: all words, and of the others every n-th, so that at most about `most` are left.

    Words stay because each says something of its own, while image patches and numbers follow from their neighbours.
    """
    regular = [i for i, name in enumerate(names) if name.startswith("<image:") or name.isdecimal()]
    words = [i for i in range(len(names)) if i not in set(regular)]
    if len(names) <= most:
        return list(range(len(names)))
    room = max(most - len(words), 2)
    kept = regular[:: max(1, -(-len(regular) // room))]
    every = -(-len(words) // most) or 1
    return sorted([*kept, *words[::every]])
