"""Pictures on the page: small, embedded, and cut exactly where the image patches are."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from lens_multimodal.analysis import Box, ReceptiveField
from lens_multimodal.views.html import data_uri
from lens_multimodal.views.notebook.embedded_pictures import (
    SIDE,
    cell_style,
    even_grid,
    field_alone,
    field_over_picture,
    shown_size,
    sprite,
)
from tests.lenses import picture


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def percentages(text: str) -> list[float]:
    return [float(part.strip("%")) / 100 for part in text.split()]


@pytest.mark.parametrize("box", [(0, 0, 15, 5), (15, 10, 30, 20), (7.5, 2.5, 9, 20), (0, 0, 30, 20)])
def test_a_sprite_shows_exactly_its_box(box):
    """By CSS's rule: a background at p % has its own point p % on the element's point p %."""
    shown = sprite(Box(left=box[0], top=box[1], right=box[2], bottom=box[3]), width=30, height=20)
    for position, size, start, stop, whole in zip(
        percentages(shown.position), percentages(shown.size), box[:2], box[2:], (30, 20), strict=True
    ):
        offset = position * (1 - size)
        assert -offset / size * whole == pytest.approx(start, abs=1e-2)
        assert (1 - offset) / size * whole == pytest.approx(stop, abs=1e-2)


def test_padding_has_no_sprite():
    assert sprite(Box(left=5, top=0, right=5, bottom=9), width=30, height=20) is None


def test_cells_are_placed_in_shares_of_the_picture():
    assert (
        cell_style(Box(left=15, top=5, right=30, bottom=10), width=30, height=20)
        == "left:50%;top:25%;width:50%;height:25%"
    )


def test_embedded_pictures_are_small_and_keep_transparency():
    large = picture(height=900, width=1200)
    small = decoded(data_uri(large, side=SIDE))
    assert small.size == (224, 168)
    assert len(data_uri(large, side=SIDE)) < 80_000
    clear = decoded(data_uri(Image.new("RGBA", (10, 10), (1, 2, 3, 4))))
    assert clear.mode == "RGBA"
    assert large.size == (1200, 900)


def test_sizes_keep_the_shape():
    assert shown_size(30, 20, side=90) == (90, 60)
    assert shown_size(1, 1000, side=100) == (8, 100)


def test_images_without_a_picture_have_cells_of_one_unit():
    box = even_grid(2, 3).patch_box(1, 2)
    assert (box.left, box.top, box.right, box.bottom) == (2, 1, 3, 2)


@pytest.fixture
def field() -> ReceptiveField:
    heat = torch.zeros(20, 30)
    heat[4:10, 6:16] = 1.0
    heat[:, 28:] = torch.nan
    return ReceptiveField(heat=heat, mask=heat > 0.5, threshold=0.5)


def test_the_outline_runs_along_the_inside_of_the_receptive_field(field):
    drawn = np.asarray(field_over_picture(picture(), field, side=300))
    white = (drawn == 255).all(axis=-1)
    assert white[40, 60:160].all()
    assert white[99, 60:160].all()
    assert white[40:100, 60].all()
    assert not white[:40].any()
    assert not white[50:90, 70:150].any()


def test_a_field_alone_is_clear_where_nothing_is(field):
    drawn = np.asarray(field_alone(field, side=300))
    assert drawn[70, 110].tolist() == [224, 90, 12, 255]
    assert drawn[150, 20, 3] == 0
    assert drawn[70, 295, 3] == 0
