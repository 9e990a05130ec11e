"""A table of neurons in a notebook: attributions as bars, image patches as pictures, decoded tokens."""

from typing import Any

import pandas as pd

from lens_multimodal.analysis.neuron_table import NeuronTable
from lens_multimodal.views.html import data_uri, fragment
from lens_multimodal.views.notebook.embedded_pictures import SIDE, Sprite, sprite
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
    has_place = {"row", "col"} <= set(table.columns)
    has_attribution = "attribution" in table
    further = [name for name in table.columns if name not in _SHOWN_OTHERWISE]
    largest = float(table["attribution"].abs().max()) if has_attribution and len(table) else 0.0
    rows = [
        _row(index, row, largest, further, table)
        for index, row in zip(table.index[:MOST_ROWS], table.head(MOST_ROWS).to_dict("records"), strict=True)
    ]
    shows_patches = has_place and any(row["sprite"] for row in rows)
    return fragment(
        "neurons.html",
        count=f"{len(table):,}",
        about=", ".join(f"{name}: {value}" for name, value in table.attrs.items()),
        rows=rows,
        has_attribution=has_attribution,
        has_place=has_place,
        further=further,
        uri=data_uri(table.picture, side=SIDE) if shows_patches and table.picture is not None else None,
        left_out=max(0, len(table) - MOST_ROWS),
    )


def _row(index: Any, row: dict[Any, Any], largest: float, further: list[Any], table: NeuronTable) -> dict[str, Any]:
    attribution = float(row.get("attribution", 0.0))
    place, cut = _place(row, table)
    words = row.get("tokens", ())
    return {
        "index": index,
        "layer": row["layer"],
        "neuron": row["neuron"],
        "attribution": f"{attribution:.4g}",
        "share": abs(attribution) / largest if largest > 0 else 0.0,
        "below": attribution < 0,
        "place": place,
        "sprite": cut,
        "words": list(words) if isinstance(words, (list, tuple)) else [str(words)],
        "further": [_text(row[name]) for name in further],
    }


def _place(row: dict[Any, Any], table: NeuronTable) -> tuple[str, Sprite | None]:
    """What a row's position shows, in words and as a part of the picture."""
    if table.layout is not None and row.get("pos") in table.image_pos:
        index = table.image_pos.index(row["pos"])
        name, box = table.layout.name(index), table.layout.box(index)
        if table.picture is None or box is None:
            return name, None
        width, height = table.layout.picture_size
        return name, sprite(box, width=width, height=height)
    if "row" not in row or "col" not in row:
        return "", None
    return f"row {row['row']}, column {row['col']}" if int(row["row"]) >= 0 else "at a word", None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
