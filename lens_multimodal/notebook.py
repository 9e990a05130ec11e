"""How a value is shown in a notebook without knowing about HTML.

A value type inherits `ShownInNotebooks`. The module named by `find_views_in` turns values into HTML. It is imported
when a notebook first shows a value, so that no value type imports what draws it.
"""

from importlib import import_module
from pathlib import Path

_views_module: str | None = None


def find_views_in(module: str) -> None:
    """Name the module whose `html_of(value)` and `save_html(value, path, title=...)` draw values."""
    global _views_module
    _views_module = module


class ShownInNotebooks:
    """A value that notebooks show as HTML, and that `save_html` writes as a page."""

    def _repr_html_(self) -> str | None:
        return _views().html_of(self)  # type: ignore[no-any-return]

    def save_html(self, path: str | Path, *, title: str | None = None) -> Path:
        """Write what a notebook would show as one self-contained page.

        Args: title: of the page; None takes the value's own.
        Returns: the path of the page.
        Raises: FileNotFoundError for a folder that does not exist.
        """
        return _views().save_html(self, path, title=title)  # type: ignore[no-any-return]


def _views():  # type: ignore[no-untyped-def]
    if _views_module is None:
        raise RuntimeError("no views are known: import lens_multimodal, or name a module with find_views_in")
    return import_module(_views_module)
