"""A table of neurons that remembers the picture its image patches belong to."""

import pandas as pd
from PIL import Image

from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.prompt.image_prompt import ImageSpan


class NeuronTable(ShownInNotebooks, pd.DataFrame):
    """A DataFrame with columns `layer` and `neuron`, shown in notebooks with pictures and tokens.

    Everything else is pandas: slices, `head`, `merge`, `to_parquet`, ... The picture and its places follow slices and
    copies. A notebook shows a table that lacks them, or lacks some of the columns, with what it has.

    Attributes:
        picture: the picture that `row` and `col` refer to; None if there is none, or more than one.
        layout: which part of the picture each position of the image shows.
        image_pos: the positions of the prompt at which the image stands, in the order of the layout.
    """

    _metadata = ["picture", "layout", "image_pos"]  # noqa: RUF012 (pandas reads it from the class)
    picture: Image.Image | None = None
    layout: ImageLayout | None = None
    image_pos: tuple[int, ...] = ()

    @property
    def _constructor(self) -> type["NeuronTable"]:
        return NeuronTable

    @classmethod
    def of(cls, table: pd.DataFrame, *, span: ImageSpan | None) -> "NeuronTable":
        """The same table with the image, at its place in the prompt, that its rows refer to; `attrs` are kept."""
        own = cls(table)
        own.attrs.update(table.attrs)
        if span is not None:
            own.picture, own.layout, own.image_pos = span.image.picture, span.image.layout, span.positions
        return own
