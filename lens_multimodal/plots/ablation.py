"""What is left of a word's probability when neurons are ablated."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

COLOURS = {"top": "#c2410c", "random": "#64748b"}


def ablation_curve(counts: Sequence[int], left: Mapping[str, Sequence[float]]) -> go.Figure:
    """Share of the probability left, against the number of ablated neurons, one line for each kind of neuron.

    Args:
        counts: numbers of ablated neurons.
        left: for each kind ("top", "random", ...) one share per count; 1 is unchanged.

    Raises: ValueError for a line of another length.
    """
    figure = go.Figure()
    for kind, shares in left.items():
        if len(shares) != len(counts):
            raise ValueError(f"{kind!r} has {len(shares)} values for {len(counts)} counts")
        figure.add_scatter(
            x=list(counts),
            y=list(shares),
            name=f"{kind} neurons",
            mode="lines+markers",
            line={"color": COLOURS.get(kind)},
        )
    figure.update_layout(
        title="Probability of the word left after ablation",
        xaxis={"title": "ablated neurons (at the image positions)", "type": "log"},
        yaxis={"title": "share of the probability", "rangemode": "tozero"},
        template="plotly_white",
    )
    return figure
