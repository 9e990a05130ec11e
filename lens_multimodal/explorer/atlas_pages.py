"""What an atlas says about neurons, and its site, for the explorer's page."""

from pathlib import PurePosixPath

from lens_multimodal.atlas import Atlas
from lens_multimodal.atlas.atlas_reading import SITE, page_of, picture_of
from lens_multimodal.explorer.answers import InAtlas
from lens_multimodal.views.html import plain_row

ADDRESS = "/atlas/"
"""Where the site is served."""

SHOWN = 4
"""Pictures shown of a neuron; its page has them all."""

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".jpg": "image/jpeg"}
"""The only files of a site."""


class AtlasPages:
    """An atlas as the explorer serves it."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self.n_pictures: int = atlas.manifest["data"]["scenes"]
        self._layers = set(atlas.manifest["settings"]["layers"])
        self._site = (atlas.folder / SITE).resolve()

    @property
    def index(self) -> str | None:
        """The address of the site; None for an atlas without one."""
        return f"{ADDRESS}index.html" if (self._site / "index.html").is_file() else None

    def known(self, layer: int, neuron: int) -> InAtlas | None:
        """What the atlas says about a neuron; None for a layer that it does not cover."""
        if layer not in self._layers:
            return None
        entry = self.atlas.neuron(layer, neuron)
        facts = plain_row(entry.facts)
        return InAtlas(
            category=facts["category"],
            iou=facts["iou"],
            p=facts["p"],
            page=ADDRESS + page_of(layer, neuron) if entry.page else None,
            pictures=[ADDRESS + picture_of(p.image_id) for p in entry.pictures[:SHOWN] if p.small],
        )

    def file(self, name: str) -> tuple[bytes, str] | None:
        """Content and type of a file of the site; None for anything else."""
        kind = KINDS.get(PurePosixPath(name).suffix)
        if kind is None or "\0" in name:
            return None
        path = (self._site / name).resolve()
        if not path.is_relative_to(self._site) or not path.is_file():
            return None
        return path.read_bytes(), kind
