"""From values to HTML text: one set of templates, everything escaped, pictures and styles embedded."""

import base64
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from lens_multimodal.views.plots.labels import visible


def render(template: str, **values: Any) -> str:
    """A file of `views/templates` filled with values.

    A page extends `base.html`: it needs a `title`, and `plotly`, the code of plotly.js, if it holds figures.
    """
    return _ENVIRONMENT.get_template(template).render(**values)


def fragment(template: str, **values: Any) -> str:
    """A template inside an element with the common style.

    Rules for this piece alone are placed under `.{{ scope }}`, a class derived from its content, so that two pieces on
    one page do not affect each other.
    """
    body = render(template, scope=_SCOPE, **values)
    scope = "lm-" + hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    style = render("style.css")
    return f'<div class="lens-multimodal {scope}"><style>{style}</style>\n{body.replace(_SCOPE, scope)}</div>'


def data_uri(picture: Image.Image, *, side: int | None = None) -> str:
    """The picture as a `data:` URI: PNG if it has transparency, otherwise JPEG.

    Args: side: the longer side is at most this many pixels; None keeps the size.
    """
    small = picture.copy()
    if side is not None:
        small.thumbnail((side, side))
    has_alpha = small.mode in ("RGBA", "LA")
    buffer = io.BytesIO()
    if has_alpha:
        small.save(buffer, format="PNG", optimize=True)
    else:
        small.convert("RGB").save(buffer, format="JPEG", quality=88)
    kind = "png" if has_alpha else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def figure_html(figure: go.Figure) -> str:
    """A figure's element without plotly's code, which a page holds once."""
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return html


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table with Python's own types, and None for missing numbers."""
    return [plain_row(row) for row in table.to_dict("records")]


def plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """One row as in `plain_rows`."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value


def _keep_percent_sign(text: str) -> str:
    """No line ends between a number and its percent sign."""
    return text.replace(" %", "\u00a0%")


_SCOPE = "lm-this-piece"

_ENVIRONMENT = Environment(
    loader=PackageLoader("lens_multimodal.views"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters["visible"] = visible
_ENVIRONMENT.filters["data_uri"] = data_uri
_ENVIRONMENT.filters["figure"] = figure_html
_ENVIRONMENT.filters["keep_percent_sign"] = _keep_percent_sign
