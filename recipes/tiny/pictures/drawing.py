"""What is known about a drawing before it is rendered."""

from dataclasses import dataclass
from typing import Literal


class Unusable(ValueError):
    """The drawing yields no cut-out; the message is the reason, in a word or two."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One picture of a package: where it is stored, how it is rendered, and its licence."""

    source: str
    """Package the drawing comes from."""
    style: str
    """Artist or set: noto, twemoji, openclipart, ..."""
    name: str
    """Name inside the package; source and name together are unique."""
    label: str
    """What the package says it shows, lower case, words separated by blanks."""
    licence: str
    permissive: bool
    """Whether pictures composed from it may be shipped."""
    kind: Literal["svg", "raster", "on_white", "model"]
    """`svg` holds its text, the others a file: a raster with alpha, one on white paper, a 3-D model."""
    content: str
    """The SVG itself, or `path` or `archive.zip::member`."""
    family: str = ""
    """Drawings of the same family are the same drawing: shadings of one outline, views of one model."""
    model: str = ""
    """3-D model a view shows."""
    side: float = 0.0
    """Side the model is seen from, in degrees around the vertical."""

    @property
    def key(self) -> str:
        return f"{self.source}/{self.name}"

    @property
    def hand(self) -> str:
        """Who drew it: the style without its edition (noto-v1, fluent-3d)."""
        return self.style.partition("-")[0]
