"""A table of neurons that remembers the picture its image patches belong to."""

import pandas as pd
from PIL import Image

from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.prompt.image_prompt import EmbeddedImage


class NeuronTable(ShownInNotebooks, pd.DataFrame):
    """A DataFrame with columns `layer` and `neuron`, shown in notebooks with pictures and tokens.

    Everything else is pandas: slices, `head`, `merge`, `to_parquet`, ... The picture and its geometry follow slices and
    copies. A notebook shows a table that lacks them, or lacks some of the columns, with what it has.

    Attributes:
        picture: the picture that `row` and `col` refer to; None if there is none, or more than one.
        geometry: where the image patches lie in the picture.
    """

    _metadata = ["picture", "geometry"]  # noqa: RUF012 (pandas reads it from the class)
    picture: Image.Image | None = None
    geometry: ImageGeometry | None = None

    @property
    def _constructor(self) -> type["NeuronTable"]:
        return NeuronTable

    @classmethod
    def of(cls, table: pd.DataFrame, *, image: EmbeddedImage | None) -> "NeuronTable":
        """The same table with the image that its `row` and `col` refer to; `attrs` are kept."""
        own = cls(table)
        own.attrs.update(table.attrs)
        if image is not None:
            own.picture, own.geometry = image.picture, image.geometry
        return own
