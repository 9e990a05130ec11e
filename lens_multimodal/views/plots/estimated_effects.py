"""Estimated effects against measured ones."""

from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Shaped
from torch import Tensor

from lens_multimodal.analysis.rank_correlation import rank_correlation
from lens_multimodal.views.plots.labels import escaped
from lens_multimodal.views.plots.theme import BLUE, TEXT, themed


def estimate_scatter(
    estimate: Shaped[Tensor, " cell"],
    effect: Shaped[Tensor, " cell"],
    *,
    labels: Sequence[str] | None = None,
    title: str = "Estimated against measured effect",
) -> go.Figure:
    """First-order estimates (attribution, attribution patching) against measured effects, one point each.

    On the dashed diagonal the estimate is exact; the title carries the Spearman correlation over ranks.

    Raises: ValueError for different lengths.
    """
    sizes = {len(estimate), len(effect), len(effect if labels is None else labels)}
    if len(sizes) != 1:
        raise ValueError(
            f"got {len(estimate)} estimates, {len(effect)} effects and {'no' if labels is None else len(labels)} labels"
        )
    x, y = (values.detach().cpu().double().numpy() for values in (effect, estimate))
    figure = go.Figure()
    figure.add_scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"color": BLUE, "size": 7, "opacity": 0.75},
        text=[escaped(label) for label in labels] if labels is not None else None,
        hovertemplate=("%{text}<br>" if labels is not None else "") + "measured %{x:.4g}<br>estimated %{y:.4g}",
        name="",
        showlegend=False,
    )
    ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))] if len(x) else [0.0, 1.0]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": TEXT, "dash": "dash"}, hoverinfo="skip", showlegend=False
    )
    return themed(
        figure,
        title=f"{escaped(title)} (rank correlation {rank_correlation(effect, estimate):.2f})",
        xaxis={"title": "measured"},
        yaxis={"title": "estimated"},
    )
