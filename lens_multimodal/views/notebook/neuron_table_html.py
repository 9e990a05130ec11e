"""A table of neurons in a notebook: attributions as bars, image patches as pictures, decoded tokens."""

from typing import Any

import pandas as pd
from PIL import Image

from lens_multimodal.analysis.neuron_table import NeuronTable
from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.views.html import data_uri, fragment
from lens_multimodal.views.notebook.embedded_pictures import SIDE, sprite
from lens_multimodal.views.notebook.shown import html_of

MOST_ROWS = 25

_SHOWN_OTHERWISE = ("layer", "neuron", "attribution", "pos", "row", "col", "tokens", "token_ids", "weights")


@html_of.register
def neuron_table_html(table: NeuronTable) -> str | None:
    """The table with its pictures; None if pandas' notebook HTML is switched off, pandas' own without the columns."""
    if not pd.get_option("display.notebook_repr_html"):
        return None
    if not {"layer", "neuron"} <= set(table.columns) or not table.columns.is_unique:
        return pd.DataFrame(table)._repr_html_()
    return neurons_html(table, picture=table.picture, geometry=table.geometry)


def neurons_html(
    table: pd.DataFrame, *, picture: Image.Image | None = None, geometry: ImageGeometry | None = None
) -> str:
    """The first rows of a table of neurons; columns it does not know are shown as text."""
    has_place = {"row", "col"} <= set(table.columns)
    has_attribution = "attribution" in table
    further = [name for name in table.columns if name not in _SHOWN_OTHERWISE]
    largest = float(table["attribution"].abs().max()) if has_attribution and len(table) else 0.0
    with_picture = picture is not None and geometry is not None and has_place
    rows = [
        _row(index, row, largest, further, picture if with_picture else None, geometry)
        for index, row in zip(table.index[:MOST_ROWS], table.head(MOST_ROWS).to_dict("records"), strict=True)
    ]
    return fragment(
        "neurons.html",
        count=f"{len(table):,}",
        about=", ".join(f"{name}: {value}" for name, value in table.attrs.items()),
        rows=rows,
        has_attribution=has_attribution,
        has_place=has_place,
        further=further,
        uri=data_uri(picture, side=SIDE) if with_picture and picture is not None else None,
        left_out=max(0, len(table) - MOST_ROWS),
    )


def _row(
    index: Any,
    row: dict[Any, Any],
    largest: float,
    further: list[Any],
    picture: Image.Image | None,
    geometry: ImageGeometry | None,
) -> dict[str, Any]:
    attribution = float(row.get("attribution", 0.0))
    cut = None
    if picture is not None and geometry is not None:
        box = geometry.patch_box(int(row["row"]), int(row["col"])) if int(row["row"]) >= 0 else None
        cut = None if box is None else sprite(box, width=picture.width, height=picture.height)
    words = row.get("tokens", ())
    return {
        "index": index,
        "layer": row["layer"],
        "neuron": row["neuron"],
        "attribution": f"{attribution:.4g}",
        "share": abs(attribution) / largest if largest > 0 else 0.0,
        "below": attribution < 0,
        "place": _place(row),
        "sprite": cut,
        "words": list(words) if isinstance(words, (list, tuple)) else [str(words)],
        "further": [_text(row[name]) for name in further],
    }


def _place(row: dict[Any, Any]) -> str:
    if "row" not in row or "col" not in row:
        return ""
    return f"row {row['row']}, column {row['col']}" if int(row["row"]) >= 0 else "at a word"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
