"""The picture in grey under a figure's axes."""

import plotly.graph_objects as go
from PIL import Image

LONGEST_SIDE = 336
"""Pixels of the embedded picture."""


def draw_under(figure: go.Figure, picture: Image.Image, *, axis: int = 1, side: int = LONGEST_SIDE) -> None:
    """Draw the picture in grey under the axes with this number; pixels are square, rows count downwards."""
    number = "" if axis == 1 else str(axis)
    grey = picture.convert("L")
    grey.thumbnail((side, side))
    figure.add_layout_image(
        source=grey,
        xref=f"x{number}",
        yref=f"y{number}",
        x=0,
        y=0,
        sizex=picture.width,
        sizey=picture.height,
        sizing="stretch",
        layer="below",
    )
    hidden = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}
    figure.update_layout(
        {
            f"xaxis{number}": {"range": [0, picture.width], "constrain": "domain", **hidden},
            f"yaxis{number}": {
                "range": [picture.height, 0],
                "scaleanchor": f"x{number}",
                "constrain": "domain",
                **hidden,
            },
        }
    )
