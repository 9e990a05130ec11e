"""Layers and attributions of the found neurons."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lens_multimodal.views.plots.labels import token_list
from lens_multimodal.views.plots.theme import ORANGE, SLATE, themed


def layer_histogram(layers: Sequence[int], *, n_layers: int) -> go.Figure:
    """Number of found neurons in each layer.

    Raises: ValueError for a layer outside the model.
    """
    outside = sorted({layer for layer in layers if not 0 <= layer < n_layers})
    if outside:
        raise ValueError(f"layers {outside} are outside the model's {n_layers} layers")
    counts = [sum(found == layer for found in layers) for layer in range(n_layers)]
    figure = go.Figure(
        go.Bar(
            x=list(range(n_layers)),
            y=counts,
            marker_color=ORANGE,
            hovertemplate="layer %{x}: %{y} neurons<extra></extra>",
        )
    )
    return themed(
        figure,
        title="Found neurons by layer",
        xaxis={"title": "layer", "dtick": 1 if n_layers <= 16 else 2},
        yaxis={"title": "neurons", "rangemode": "tozero"},
    )


def attribution_scatter(found: pd.DataFrame, *, n_layers: int, d_mlp: int) -> go.Figure:
    """Attribution of each found neuron against its layer; hovering shows what it writes.

    Within a layer, points are spread by neuron number so that they do not hide each other.

    Args:
        found: as `lens.neurons` returns it; columns `layer`, `neuron`, `attribution`, and, where there are any,
            `tokens` and `interpretable` (coloured apart).

    Raises: ValueError for a missing column or a neuron outside the model.
    """
    missing = [name for name in ("layer", "neuron", "attribution") if name not in found]
    if missing:
        raise ValueError(f"the table of neurons lacks {', '.join(missing)}; its columns are {', '.join(found.columns)}")
    if len(found) and not (found["layer"].between(0, n_layers - 1) & found["neuron"].between(0, d_mlp - 1)).all():
        raise ValueError(f"the table holds neurons outside the model's {n_layers} layers of {d_mlp} neurons")
    kinds = {"neurons": np.ones(len(found), dtype=bool)}
    if "interpretable" in found:
        words = found["interpretable"].to_numpy(dtype=bool)
        kinds = {"interpretable (the paper's rule)": words, "not interpretable": ~words}
    figure = go.Figure()
    for (kind, chosen), colour in zip(kinds.items(), (ORANGE, SLATE), strict=False):
        part = found[chosen]
        figure.add_scatter(
            x=part["layer"] + 0.8 * ((part["neuron"] + 0.5) / d_mlp - 0.5),
            y=part["attribution"],
            mode="markers",
            name=kind,
            marker={"color": colour, "size": 8, "opacity": 0.8},
            text=[_about(row) for row in part.to_dict("records")],
            hovertemplate="%{text}<extra></extra>",
        )
    return themed(
        figure,
        title="Attribution of the found neurons",
        xaxis={
            "title": "layer (points within a layer are spread by neuron number)",
            "dtick": 1 if n_layers <= 16 else 2,
            "range": [-0.5, n_layers - 0.5],
        },
        yaxis={"title": "attribution (logits)"},
    )


def _about(row: dict[str, object]) -> str:
    tokens = token_list(row["tokens"][:8]) if "tokens" in row else ""  # type: ignore[index]
    return f"layer {row['layer']}, neuron {row['neuron']}<br>attribution {row['attribution']:.3f} logits<br>{tokens}"
