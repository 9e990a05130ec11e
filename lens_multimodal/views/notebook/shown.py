"""The HTML of a value by its type, and a page around it."""

from functools import singledispatch
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lens_multimodal.views.html import figure_html, render


@singledispatch
def html_of(value: Any) -> str | None:
    """What a notebook shows for a value; the modules beside this one register one function for each type.

    Returns: None where the value asks for plain text.
    Raises: TypeError for a type without HTML.
    """
    raise TypeError(
        f"{type(value).__name__} has no HTML representation; expected a lens, a prompt, a table of neurons, a neuron "
        f"card or a result"
    )


@singledispatch
def title_of(value: Any) -> str:  # noqa: ARG001 (the default for every type)
    """The title of a value's page."""
    return "lens_multimodal"


@html_of.register
def _figure(figure: go.Figure) -> str:
    return figure_html(figure)


@title_of.register
def _figure_title(figure: go.Figure) -> str:
    return figure.layout.title.text or "lens_multimodal"


def page(value: Any, *, title: str | None = None) -> str:
    """A whole page around a value's HTML, dark where the reader's system is.

    Raises: TypeError as `html_of`, and for a value that asks for plain text.
    """
    body = html_of(value)
    if body is None:
        raise TypeError(
            f"this {type(value).__name__} has no HTML representation now; switch on pandas' display.notebook_repr_html"
        )
    return render(
        "page.html",
        title=title_of(value) if title is None else title,
        body=Markup(body),
        plotly=get_plotlyjs() if isinstance(value, go.Figure) else "",
    )


def save_html(value: Any, path: str | Path, *, title: str | None = None) -> Path:
    """Write what a notebook would show, or a plotly figure, as one self-contained page, dark where the system is.

    Returns: the path of the page.
    Raises: TypeError as `page`; FileNotFoundError for a folder that does not exist.
    """
    path = Path(path)
    text = page(value, title=title)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name} into; make it first")
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path
