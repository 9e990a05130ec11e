"""An image prompt as people read it: the picture under its patch grid, each position's patch, words and tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lens_multimodal.analysis import nearest_embeddings, token_strings
from lens_multimodal.prompt.captioning_model import CaptioningModel, maker_of
from lens_multimodal.prompt.image_prompt import ImagePrompt, ImageSpan
from lens_multimodal.views.html import data_uri, fragment
from lens_multimodal.views.notebook.embedded_pictures import (
    SIDE,
    Sprite,
    cell_style,
    even_grid,
    shown_size,
    sprite,
)
from lens_multimodal.views.notebook.shown import html_of

NEAREST = 6
"""Words shown for each image position."""

MOST_OTHERS = 8
"""Rows of a batch that are shown in short after the first."""

LONGEST_TEXT = 400
"""Text positions shown of one row."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One image position: where it lies on the page, and what it reads as."""

    pos: int
    name: str
    style: str
    sprite: Sprite | None
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShownImage:
    """One image of a prompt and its cells."""

    uri: str | None
    width: int
    height: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One position of the prompt in order: a word, or, where `word` is None, a patch of an image."""

    pos: int
    word: str | None
    id: int
    image: int = 0


@dataclass(frozen=True, kw_only=True)
class RowView:
    """One row of a prompt, ready to be laid out."""

    images: tuple[ShownImage, ...]
    pieces: tuple[Piece, ...]


@html_of.register
def prompt_html(prompt: ImagePrompt) -> str:
    """The first row in full, further rows in short.

    The words nearest to each image position are looked up if the prompt's lens is still there: one product of the
    image's vectors with the input embeddings.
    """
    lens = maker_of(prompt)
    view = row_view(prompt.row(0), lens)
    shown = range(1, min(len(prompt), 1 + MOST_OTHERS))
    return fragment(
        "prompt.html",
        view=view,
        summary=_summary(prompt),
        hint="point at an image patch to see what the model is given there"
        if lens is not None
        else "the lens of this prompt is gone: words cannot be read",
        others=[_in_short(prompt, index, lens) for index in shown],
        left_out=max(0, len(prompt) - 1 - MOST_OTHERS),
    )


def row_view(row: ImagePrompt, lens: CaptioningModel | None) -> RowView:
    """A prompt of one row as images, cells and words."""
    spans = row.spans[0]
    images = tuple(_shown_image(span, lens) for span in spans)
    place = {pos: number for number, span in enumerate(spans) for pos in range(span.start, span.stop)}
    ids = row.tokens[0].tolist()
    texts = [pos for pos in range(len(ids)) if pos not in place]
    words = dict(zip(texts, _words(lens, [ids[pos] for pos in texts]), strict=True))
    left_out = set(texts[LONGEST_TEXT:])
    pieces = [
        Piece(pos=pos, word=words.get(pos), id=ids[pos], image=place.get(pos, 0))
        for pos in range(len(ids))
        if pos not in left_out
    ]
    if left_out:
        pieces.append(Piece(pos=min(left_out), word=f"… {len(left_out)} more positions", id=ids[min(left_out)]))
    return RowView(images=images, pieces=tuple(pieces))


def _shown_image(span: ImageSpan, lens: CaptioningModel | None) -> ShownImage:
    image = span.image
    found = image.geometry
    geometry = found or even_grid(image.grid_h, image.grid_w)
    # A picture whose patches cannot be placed is shown without cells over it.
    placed = found is not None or image.picture is None
    width, height = image.picture.size if image.picture else (image.grid_w, image.grid_h)
    words = _nearest(lens, image.soft_prompt.vectors)
    cells = []
    for index in range(len(image)):
        row, col = image.cell(index)
        box = geometry.patch_box(row, col)
        empty = box.area == 0
        cells.append(
            Cell(
                pos=span.start + index,
                name=f"row {row}, column {col} (position {span.start + index})" + (": only padding" if empty else ""),
                style=cell_style(box, width=width, height=height) if placed and not empty else "",
                sprite=sprite(box, width=width, height=height) if found else None,
                words=words[index],
            )
        )
    shown_width, shown_height = shown_size(width, height)
    return ShownImage(
        uri=None if image.picture is None else data_uri(image.picture, side=SIDE),
        width=shown_width,
        height=shown_height,
        cells=tuple(cells),
    )


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
