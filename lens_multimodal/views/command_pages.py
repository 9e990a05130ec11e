"""Pages of the command line for what a table shows badly: where neurons are active, and which cells were patched."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image
from plotly.offline import get_plotlyjs

from lens_multimodal.analysis import PatchSweep, ReceptiveField
from lens_multimodal.views.html import render
from lens_multimodal.views.notebook.embedded_pictures import field_over_picture
from lens_multimodal.views.plots import sweep_map

SIDE = 160
"""Longest side of a picture on these pages, in pixels."""

MOST_MAPS = 100
"""Neurons of one picture that are drawn; the table holds them all."""


@dataclass(frozen=True, kw_only=True)
class PictureNeurons:
    """The neurons behind a word after one picture."""

    name: str
    """The picture's path."""
    picture: Image.Image
    text: str
    """The prompt after the picture, up to the word."""
    table: pd.DataFrame
    """As `VisionLens.neurons` returns it."""
    fields: Sequence[ReceptiveField]
    """Where each neuron is active on the picture, for the first rows of the table."""


def neurons_page(title: str, sections: Sequence[PictureNeurons], *, word: str, about: str) -> str:
    """A self-contained page: each picture once, and each neuron as its activation over the picture beside its tokens.

    Args: about: how the neurons were ranked, for readers.
    """
    return render(
        "command_neurons.html",
        title=title,
        word=word,
        about=about,
        side=SIDE,
        sections=[
            {
                "name": section.name,
                "picture": section.picture,
                "text": section.text,
                "rows": [
                    {**row, "map": field_over_picture(section.picture, field, side=SIDE)}
                    for row, field in zip(section.table.to_dict("records"), section.fields, strict=False)
                ],
                "left_out": len(section.table) - len(section.fields),
            }
            for section in sections
        ],
    )


def patch_page(
    title: str,
    sweep: PatchSweep,
    *,
    table: pd.DataFrame,
    names: Sequence[str],
    clean: Image.Image,
    corrupted: Image.Image,
) -> str:
    """A self-contained page of a sweep over layers and positions or heads: both pictures, a heat map, the table folded.

    Args: names: of the positions or heads, in order.
    """
    over_positions = "pos" in sweep.axes
    figure = sweep_map(
        sweep.recovered,
        layers=sweep.axes["layer"],
        column_names=names,
        columns="position" if over_positions else "head",
        title=f"{sweep.site}: share of the difference that each cell restores",
    )
    return render(
        "command_patch.html",
        title=title,
        side=SIDE,
        pictures={"clean": clean, "corrupted": corrupted},
        figure=figure,
        plotly=get_plotlyjs(),
        columns=list(table.columns),
        rows=[
            [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
            for row in table.itertuples(index=False)
        ],
    )
