"""Figures of summaries: curves with bands, and bars with whiskers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lens_multimodal.experiments.shared.summaries import Drawing, Summary
from lens_multimodal.views.plots.labels import escaped
from lens_multimodal.views.plots.theme import BLUE, COLOURS, GREEN, PURPLE, RED, TEXT, band, themed

OTHERS = (BLUE, GREEN, PURPLE, RED, "#b8860b", "#0e9aa7")

PANELS_PER_ROW = 3

HEAD, FOOT, GAP = 60, 60, 90
"""Pixels above, below and between rows of panels: room for titles and axes."""

PANEL_TITLE = 30

BAR_OPACITY = 0.6
"""Whiskers can be seen over the bars."""


def figure_of(summary: Summary) -> go.Figure | None:
    """The figure of a summary, None without a drawing or rows; its title says how many pictures there are.

    Intervals are drawn where the frame has `low` and `high` and the drawing's `y` is `mean`.
    """
    drawing, frame = summary.drawing, summary.frame
    if drawing is None or not len(frame):
        return None
    if drawing.kind == "bars" and drawing.series == drawing.x:
        drawing = replace(drawing, series=None)
    panels = [None] if drawing.panels is None else list(dict.fromkeys(frame[drawing.panels]))
    n_columns = 2 if len(panels) == 4 else min(PANELS_PER_ROW, len(panels))
    n_rows = -(-len(panels) // n_columns)
    horizontal = _is_horizontal(frame, drawing)
    height = 340 if not horizontal else _height_of_bars(frame, drawing)
    figure = make_subplots(
        rows=n_rows,
        cols=n_columns,
        subplot_titles=None if drawing.panels is None else [escaped(panel) for panel in panels],
        shared_yaxes=horizontal,
        vertical_spacing=(GAP if n_rows > 1 else 0) / (height * n_rows + GAP * (n_rows - 1)),
        horizontal_spacing=0.04 if horizontal else 0.09,
    )
    names = [None] if drawing.series is None else list(dict.fromkeys(frame[drawing.series]))
    listed: set[Any] = set()
    for number, panel in enumerate(panels):
        row, column = divmod(number, n_columns)
        part = frame if panel is None else frame[frame[drawing.panels] == panel]
        for trace in _traces(part, drawing, names, horizontal=horizontal):
            if drawing.series is not None and _is_of_series(trace):
                # A later panel may be the first to have a series.
                trace.showlegend = trace.name not in listed
                listed.add(trace.name)
            figure.add_trace(trace, row=row + 1, col=column + 1)
    _axes(figure, drawing, horizontal=horizontal)
    head = HEAD if drawing.panels is None else HEAD + PANEL_TITLE
    themed(
        figure,
        title=f"{escaped(summary.title)} ({summary.n_pictures} pictures)",
        height=head + FOOT + height * n_rows + GAP * (n_rows - 1),
        barmode="group",
        margin={"t": head, "b": FOOT},
    )
    figure.update_layout(title={"yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 14}})
    return figure


def _is_of_series(trace: go.Scatter | go.Bar) -> bool:
    """Bars and lines, but not the bands behind them."""
    return trace.type == "bar" or trace.mode != "lines"


def _is_horizontal(frame: pd.DataFrame, drawing: Drawing) -> bool:
    """Bars with words for names are horizontal, which keeps the names legible."""
    return drawing.kind == "bars" and not pd.api.types.is_numeric_dtype(frame[drawing.x])


def _height_of_bars(frame: pd.DataFrame, drawing: Drawing) -> int:
    """Room for horizontal bars."""
    in_each = 1 if drawing.series is None else frame[drawing.series].nunique()
    return max(90, frame[drawing.x].nunique() * (14 + 16 * in_each))


def _traces(
    frame: pd.DataFrame, drawing: Drawing, names: list[Any], *, horizontal: bool
) -> Iterator[go.Scatter | go.Bar]:
    for name in names:
        part = frame if drawing.series is None else frame[frame[drawing.series] == name]
        if not len(part):
            continue
        label = escaped(name) if drawing.series is not None else escaped(drawing.y_title or drawing.y)
        colour = _colour(name, names)
        if drawing.kind == "curve":
            part = part.sort_values(drawing.x)
            if _has_interval(part, drawing):
                known = part[part["low"].notna()]
                x, low, high = (known[column].tolist() for column in (drawing.x, "low", "high"))
                yield band(x, low, high, colour=colour, name=f"{label} band").update(legendgroup=label)
            yield go.Scatter(
                x=part[drawing.x],
                y=part[drawing.y],
                name=label,
                legendgroup=label,
                showlegend=False,
                mode="lines+markers",
                line={"color": colour},
                marker={"color": colour, "size": 6},
            )
        else:
            whiskers = _whiskers(part, drawing)
            places = [escaped(value) for value in part[drawing.x]] if horizontal else part[drawing.x]
            yield go.Bar(
                x=part[drawing.y] if horizontal else places,
                y=places if horizontal else part[drawing.y],
                orientation="h" if horizontal else "v",
                name=label,
                legendgroup=label,
                showlegend=False,
                marker={"color": _bar_colours(part, drawing, colour), "opacity": BAR_OPACITY},
                error_x=whiskers if horizontal else None,
                error_y=None if horizontal else whiskers,
            )


def _whiskers(frame: pd.DataFrame, drawing: Drawing) -> dict[str, Any] | None:
    if not _has_interval(frame, drawing):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": (frame["high"] - frame["mean"]).tolist(),
        "arrayminus": (frame["mean"] - frame["low"]).tolist(),
        "color": TEXT,
        "thickness": 1.2,
        "width": 3,
    }


def _axes(figure: go.Figure, drawing: Drawing, *, horizontal: bool) -> None:
    x_title = drawing.x_title or drawing.x.replace("_", " ")
    y_title = drawing.y_title or drawing.y.replace("_", " ")
    figure.update_xaxes(title_text=y_title if horizontal else x_title, title_standoff=6)
    if horizontal:
        figure.update_yaxes(autorange="reversed")
    else:
        figure.update_yaxes(title_text=y_title, col=1)
    if drawing.reference is not None:
        line = {"color": TEXT, "dash": "dot", "width": 1}
        figure.add_vline(x=drawing.reference, line=line) if horizontal else figure.add_hline(
            y=drawing.reference, line=line
        )
    if drawing.log_x:
        # Label powers of ten only: plotly's 2 and 5 between them look like whole numbers.
        figure.update_xaxes(type="log", dtick=1)


def _colour(name: Any, names: list[Any]) -> str:
    if name is None:
        return COLOURS["top"]
    others = [n for n in names if n not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHERS[others.index(name) % len(OTHERS)]


def _bar_colours(frame: pd.DataFrame, drawing: Drawing, colour: str) -> str | list[str]:
    """Bars of the found neurons and their control keep their colours without a legend."""
    values = list(frame[drawing.x])
    if drawing.series is not None or not set(COLOURS) & set(values):
        return colour
    return [COLOURS.get(value, OTHERS[0]) for value in values]


def _has_interval(frame: pd.DataFrame, drawing: Drawing) -> bool:
    return drawing.y == "mean" and {"low", "high"} <= set(frame.columns) and bool(frame["low"].notna().any())
