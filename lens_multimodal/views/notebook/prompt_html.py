"""An image prompt in a notebook: the picture under its patch grid, and the patch, words or token of each position."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lens_multimodal.analysis import nearest_embeddings, token_strings
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.prompt.captioning_model import CaptioningModel, maker_of
from lens_multimodal.prompt.image_prompt import ImagePrompt, ImageSpan
from lens_multimodal.views.html import data_uri, fragment
from lens_multimodal.views.notebook.embedded_pictures import SIDE, cell_style, even_grid, shown_size, sprite
from lens_multimodal.views.notebook.shown import html_of

NEAREST = 6
"""Words shown for each image position."""

MOST_OTHERS = 8
"""Rows of a batch that are abbreviated after the first."""

LONGEST_TEXT = 400
"""Text positions shown of one row."""


@html_of.register
def prompt_html(prompt: ImagePrompt) -> str:
    """The first row in full, further rows abbreviated.

    If the prompt's lens still exists, the words nearest to each image position are shown: one product of the image's
    vectors with the input embeddings.
    """
    lens = maker_of(prompt)
    row = prompt.row(0)
    further = range(1, min(len(prompt), 1 + MOST_OTHERS))
    return fragment(
        "prompt.html",
        images=shown_images(row, lens),
        pieces=_pieces(row, lens),
        summary=_summary(prompt),
        hint="point at an image patch to see the words nearest to it"
        if lens is not None
        else "the lens of this prompt no longer exists, so its words cannot be decoded",
        others=[_in_short(prompt, index, lens) for index in further],
        left_out=max(0, len(prompt) - 1 - MOST_OTHERS),
    )


def shown_images(row: ImagePrompt, lens: CaptioningModel | None) -> list[dict[str, Any]]:
    """The images of a prompt of one row, each with a cell for every position: its patch and its nearest words."""
    return [_shown_image(span, lens) for span in row.spans[0]]


def _pieces(row: ImagePrompt, lens: CaptioningModel | None) -> list[dict[str, Any]]:
    """The positions of a prompt in order: a word, or, where `word` is None, a patch of an image."""
    image_at = {pos: number for number, span in enumerate(row.spans[0]) for pos in span.positions}
    ids = row.tokens[0].tolist()
    texts = [pos for pos in range(len(ids)) if pos not in image_at]
    words = dict(zip(texts, _words(lens, [ids[pos] for pos in texts]), strict=True))
    left_out = set(texts[LONGEST_TEXT:])
    pieces = [
        {"pos": pos, "word": words.get(pos), "id": ids[pos], "image": image_at.get(pos)}
        for pos in range(len(ids))
        if pos not in left_out
    ]
    if left_out:
        first = min(left_out)
        pieces.append({"pos": first, "word": f"… {len(left_out)} more positions", "id": ids[first], "image": None})
    return pieces


def _shown_image(span: ImageSpan, lens: CaptioningModel | None) -> dict[str, Any]:
    image = span.image
    placed = image.layout.is_placed
    grid = image.layout.only_grid
    layout = (
        image.layout
        if placed or grid is None
        else ImageLayout.one_grid(grid.grid_h, grid.grid_w, even_grid(grid.grid_h, grid.grid_w))
    )
    # A picture whose patches cannot be placed is shown without cells over it.
    drawn = placed or image.picture is None
    width, height = image.size or ((grid.grid_w, grid.grid_h) if grid else (len(image), 1))
    words = _nearest(lens, image.soft_prompt.vectors)
    cells = []
    for index, pos in enumerate(span.positions):
        box = layout.box(index)
        cells.append(
            {
                "pos": pos,
                "name": f"{layout.name(index)} (position {pos})",
                "style": cell_style(box, width=width, height=height) if drawn and box else "",
                "sprite": sprite(box, width=width, height=height) if placed and box else None,
                "words": words[index],
            }
        )
    uri = None if image.picture is None else data_uri(image.picture, side=SIDE)
    shown_width, shown_height = shown_size(width, height)
    return {"uri": uri, "width": shown_width, "height": shown_height, "cells": cells}


def _nearest(lens: CaptioningModel | None, vectors: Tensor) -> list[tuple[str, ...]]:
    if lens is None or not bool(vectors.isfinite().all()):
        return [()] * len(vectors)
    found = nearest_embeddings(lens.model, vectors, top_k=min(NEAREST, lens.shape.d_vocab)).tokens.tolist()
    return [tuple(_words(lens, row)) for row in found]


def _words(lens: CaptioningModel | None, ids: Sequence[int]) -> list[str]:
    if lens is None:
        return [f"<{i}>" for i in ids]
    return token_strings(lens.model, ids)


def _in_short(prompt: ImagePrompt, index: int, lens: CaptioningModel | None) -> dict[str, Any]:
    row = prompt.row(index)
    ids = row.tokens[0, ~row.image_mask[0].to(row.tokens.device)].tolist()[:40]
    pictures = [span.image.picture for span in row.spans[0]][:4]
    return {
        "index": index,
        "uris": [data_uri(picture, side=64) for picture in pictures if picture is not None],
        "words": _words(lens, ids),
    }


def _summary(prompt: ImagePrompt) -> str:
    n_images = sum(len(spans) for spans in prompt.spans)
    n_image_pos = int(prompt.image_mask[0].sum())
    n_text = int(prompt.text_mask[0].sum())
    rows = "" if len(prompt) == 1 else f"{len(prompt)} rows, "
    return (
        f"{rows}{n_images} image{'s' if n_images != 1 else ''}; {n_image_pos} image and {n_text} text positions"
        f"{'' if len(prompt) == 1 else ' in the first row'}"
    )
