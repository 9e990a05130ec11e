"""From values to HTML: every text is escaped, every piece brings its own style, and a page needs nothing else."""

import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lens_multimodal.views.plots.labels import visible


def fragment(template: str, **values: Any) -> str:
    """One template with the common style around it.

    Rules meant for this piece alone are written under `.{{ scope }}`, a class made from its content, so that two
    pieces on one page do not meet.
    """
    body = _ENVIRONMENT.get_template(template).render(scope=_SCOPE, **values)
    scope = "lm-" + hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    style = _ENVIRONMENT.get_template("style.css").render()
    return f'<div class="lens-multimodal {scope}"><style>{style}</style>\n{body.replace(_SCOPE, scope)}</div>'


def page(thing: Any, *, title: str) -> str:
    """A whole page around something's HTML, dark where the reader's system is.

    Raises: TypeError for something without HTML of its own.
    """
    body = thing._repr_html_() if hasattr(thing, "_repr_html_") else None
    if body is None:
        raise TypeError(
            f"{type(thing).__name__} has no HTML representation; expected a lens, a prompt, a table of neurons, a "
            f"neuron card or a result"
        )
    return _ENVIRONMENT.get_template("page.html").render(title=title, body=Markup(body))


def save_html(thing: Any, path: str | Path, *, title: str = "lens_multimodal") -> Path:
    """Write what a notebook would show as one self-contained page.

    Returns: where it is.
    Raises: TypeError for something without HTML of its own; FileNotFoundError for a folder that does not exist.
    """
    path = Path(path)
    text = page(thing, title=title)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name} into; make it first")
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


_SCOPE = "lm-this-piece"

_ENVIRONMENT = Environment(
    loader=PackageLoader("lens_multimodal.views.notebook"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters["visible"] = visible
