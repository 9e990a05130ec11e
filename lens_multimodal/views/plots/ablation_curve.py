"""What is left of a word's probability when neurons are ablated."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from jaxtyping import Float, Shaped
from numpy import ndarray

from lens_multimodal.analysis import bootstrap_interval
from lens_multimodal.views.plots.labels import escaped
from lens_multimodal.views.plots.theme import COLOURS, PALETTE, band, themed


def ablation_curve(counts: Sequence[int], left: Mapping[str, Sequence[float | int]]) -> go.Figure:
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
        _add_line(figure, counts, list(shares), kind, list(left))
    return _finished(figure, counts, "Probability of the word left after ablation")


def ablation_bands(
    counts: Sequence[int],
    left: Mapping[str, Float[ndarray, "prompt count"] | Shaped[ndarray, "prompt count"]],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> go.Figure:
    """`ablation_curve` over many prompts: the mean line of each kind in its bootstrap band.

    Args:
        left: for each kind, one share per prompt and count.
        level: of the band, the percentile bootstrap over prompts (`analysis.effects.bootstrap_interval`).

    Raises: ValueError for another number of counts, or fewer than two prompts.
    """
    figure = go.Figure()
    for kind, shares in left.items():
        if shares.shape[1] != len(counts) or shares.shape[0] < 2:
            raise ValueError(
                f"{kind!r} has shape {list(shares.shape)}; expected [prompt, count={len(counts)}] with at least two "
                f"prompts"
            )
        intervals = [bootstrap_interval(column, level=level, seed=seed) for column in shares.T]
        low, high = [i.low for i in intervals], [i.high for i in intervals]
        figure.add_trace(band(counts, low, high, colour=_colour(kind, list(left)), name=f"{escaped(kind)} band"))
        _add_line(figure, counts, [i.mean for i in intervals], kind, list(left))
    n_prompts = len(next(iter(left.values()), []))
    return _finished(
        figure, counts, f"Probability of the word left after ablation ({n_prompts} prompts, {level:.0%} bands)"
    )


def _add_line(
    figure: go.Figure, counts: Sequence[int], shares: list[float | int], kind: str, kinds: Sequence[str]
) -> None:
    colour = _colour(kind, kinds)
    figure.add_scatter(
        x=list(counts),
        y=shares,
        name=f"{escaped(kind)} neurons",
        mode="lines+markers",
        line={"color": colour},
        hovertemplate="%{x} neurons: %{y:.1%} left",
    )


def _colour(kind: str, kinds: Sequence[str]) -> str:
    return COLOURS.get(kind, PALETTE[(list(kinds).index(kind) + 1) % len(PALETTE)])


def _finished(figure: go.Figure, counts: Sequence[int], title: str) -> go.Figure:
    return themed(
        figure,
        title=title,
        xaxis={"title": "ablated neurons (at the image positions)", "type": "log", "tickvals": list(counts)},
        yaxis={"title": "share of the probability", "rangemode": "tozero", "tickformat": ".0%"},
    )
