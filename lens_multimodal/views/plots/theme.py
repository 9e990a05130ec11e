"""One look for every figure: no background of its own, and colours that are legible on light and on dark pages."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from lens_multimodal.views.plots.labels import escaped

TEXT = "#7d7d7d"
"""Titles, axes and labels: at least 4 to 1 against white, black and the usual dark greys."""

GRID = "rgba(125, 125, 125, 0.3)"

ORANGE, BLUE, GREEN, PURPLE, RED, SLATE = "#e05a0c", "#2f80ed", "#1b9a59", "#a855f7", "#ef4444", "#7b8794"
"""Lines and marks: at least 3 to 1 against the same pages."""

PALETTE = (ORANGE, BLUE, GREEN, PURPLE, RED, SLATE)

COLOURS = {"top": ORANGE, "random": SLATE}
"""Found neurons and their control have the same colours in every figure."""

RISING = [[0.0, "rgba(224, 90, 12, 0)"], [0.5, "rgba(224, 90, 12, 0.55)"], [1.0, "rgba(224, 60, 12, 1)"]]
"""Colour scale for values from zero up; zero is transparent and shows the page, or the picture underneath."""

SIGNED = [
    [0.0, "rgba(37, 99, 235, 1)"],
    [0.25, "rgba(47, 128, 237, 0.55)"],
    [0.5, "rgba(125, 125, 125, 0)"],
    [0.75, "rgba(224, 90, 12, 0.55)"],
    [1.0, "rgba(224, 60, 12, 1)"],
]
"""Colour scale for values around zero: blue below, orange above, zero is transparent."""

CLEAR = "rgba(0, 0, 0, 0)"

AXIS = {
    "gridcolor": GRID,
    "zerolinecolor": GRID,
    "linecolor": TEXT,
    "ticks": "outside",
    "tickcolor": GRID,
    "automargin": True,
    "title": {"standoff": 10},
}

TEMPLATE = go.layout.Template(
    layout={
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": TEXT, "size": 13},
        "title": {
            "font": {"size": 16},
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "pad": {"b": 10},
        },
        "colorway": list(PALETTE),
        "xaxis": AXIS,
        "yaxis": AXIS,
        "legend": {"bgcolor": CLEAR},
        "hoverlabel": {"bgcolor": "#27272a", "bordercolor": TEXT, "font": {"color": "#fafafa", "size": 13}},
        "modebar": {"bgcolor": CLEAR, "color": TEXT, "activecolor": ORANGE},
        "sliderdefaults": {
            "bgcolor": GRID,
            "bordercolor": TEXT,
            "activebgcolor": ORANGE,
            "tickcolor": TEXT,
            "font": {"color": TEXT},
        },
        "margin": {"l": 60, "r": 30, "t": 75, "b": 55},
    }
)


def themed(figure: go.Figure, *, title: str, **layout: object) -> go.Figure:
    """The figure with the common look, its title and further layout settings; changed in place and returned."""
    figure.update_layout(template=TEMPLATE, title_text=title, **layout)
    return figure


def colour_scale(*, signed: bool) -> dict[str, object]:
    """Settings of a heat map: signed values are centred on zero."""
    return {"colorscale": SIGNED, "zmid": 0.0} if signed else {"colorscale": RISING}


def band(x: Sequence[Any], low: Sequence[Any], high: Sequence[Any], *, colour: str, name: str) -> go.Scatter:
    """A translucent area between two lines; not in the legend and without hover."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        mode="lines",
        fill="toself",
        fillcolor=f"rgba({red}, {green}, {blue}, 0.2)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        name=name,
    )


def colour_bar(label: str) -> dict[str, object]:
    """The legend of a colour scale, its label upright beside it."""
    return {"title": {"text": escaped(label), "side": "right"}, "thickness": 14}
