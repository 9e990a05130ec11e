"""Where in depth the found neurons lie."""

from collections.abc import Sequence

import plotly.graph_objects as go


def layer_histogram(layers: Sequence[int], *, n_layers: int) -> go.Figure:
    """Number of found neurons in each layer.

    Raises: ValueError for a layer outside the model.
    """
    outside = sorted({layer for layer in layers if not 0 <= layer < n_layers})
    if outside:
        raise ValueError(f"layers {outside} are outside the model's {n_layers} layers")
    counts = [sum(found == layer for found in layers) for layer in range(n_layers)]
    figure = go.Figure(go.Bar(x=list(range(n_layers)), y=counts, marker_color="#c2410c"))
    figure.update_layout(
        title="Found neurons by layer",
        xaxis={"title": "layer", "dtick": 1},
        yaxis={"title": "neurons"},
        template="plotly_white",
    )
    return figure
