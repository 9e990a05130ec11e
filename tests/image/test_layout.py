"""Layouts of several grids: places, boxes, scaling, and maps of the picture, by hand."""

from dataclasses import replace

import pytest
import torch

from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.image.layout import ImageLayout, PatchGrid


def geometry(grid_h, grid_w, *, width=40, height=20):
    return ImageGeometry(
        width=width, height=height, resized_width=8 * grid_w, resized_height=8 * grid_h, left=0, top=0,
        input_width=8 * grid_w, input_height=8 * grid_h, grid_h=grid_h, grid_w=grid_w,
    )  # fmt: skip


FINE = PatchGrid(grid_h=2, grid_w=2, indices=(1, 2, 4, 5), geometry=geometry(2, 2))
COARSE = PatchGrid(grid_h=1, grid_w=1, indices=(0,), geometry=geometry(1, 1))
LAYOUT = ImageLayout(n_positions=7, grids=(FINE, COARSE))
"""The whole picture at position 0, two rows of two patches with a mark after each row (positions 3 and 6)."""


def test_places_and_boxes():
    assert [LAYOUT.place(index) and LAYOUT.place(index)[1:] for index in range(7)] == [
        (0, 0), (0, 0), (0, 1), None, (1, 0), (1, 1), None,
    ]  # fmt: skip
    assert (LAYOUT.box(0).right, LAYOUT.box(0).bottom) == (40, 20)
    assert (LAYOUT.box(5).left, LAYOUT.box(5).top, LAYOUT.box(5).right, LAYOUT.box(5).bottom) == (20, 10, 40, 20)
    assert LAYOUT.box(3) is None
    assert LAYOUT.only_grid is None
    with pytest.raises(ValueError, match="7"):
        LAYOUT.place(7)


def test_names_say_what_a_position_shows():
    assert [LAYOUT.name(index) for index in (0, 3, 4)] == [
        "row 0, column 0 of the 1 x 1 grid", "no part of the picture", "row 1, column 0 of the 2 x 2 grid",
    ]  # fmt: skip
    padded = replace(geometry(2, 2), resized_height=8)
    one = ImageLayout.one_grid(2, 2, padded)
    assert [one.name(index) for index in (1, 2)] == ["row 0, column 1", "row 1, column 0, only padding"]
    assert ImageLayout.one_grid(1, 3).name(2) == "row 0, column 2"


def test_the_size_and_the_shapes_of_the_grids():
    assert LAYOUT.picture_size == (40, 20)
    assert LAYOUT.shapes == "2 x 2, 1 x 1"
    with pytest.raises(ValueError, match="3 positions"):
        _ = ImageLayout.one_grid(1, 3).picture_size


def test_one_grid_in_order_is_the_only_grid():
    single = ImageLayout.one_grid(2, 3)
    assert single.only_grid.indices == tuple(range(6))
    assert not single.is_placed
    turned = PatchGrid(grid_h=1, grid_w=2, indices=(1, 0))
    assert ImageLayout(n_positions=2, grids=(turned,)).only_grid is None
    with pytest.raises(ValueError, match="2 x 2"):
        PatchGrid(grid_h=2, grid_w=2, indices=(0, 1, 2))


def test_a_map_is_the_mean_over_the_grids():
    values = torch.tensor([4.0, 0.0, 0.0, 99.0, 0.0, 8.0, 99.0])
    shown = LAYOUT.to_picture(values)
    assert shown.shape == (20, 40)
    assert shown[0, 0] == pytest.approx((4 + 0) / 2)
    assert shown[-1, -1] == pytest.approx((4 + 8) / 2)


def test_a_map_needs_places_and_one_value_per_position():
    with pytest.raises(ValueError, match="7"):
        LAYOUT.to_picture(torch.zeros(6))
    with pytest.raises(ValueError, match="place"):
        ImageLayout.one_grid(2, 2).to_picture(torch.zeros(4))


def test_the_same_patches_in_a_scaled_picture():
    half = LAYOUT.for_picture(20, 10)
    assert (half.box(5).left, half.box(5).top, half.box(5).right, half.box(5).bottom) == (10, 5, 20, 10)
    assert half.for_picture(40, 20) == LAYOUT
    assert ImageLayout.from_json(LAYOUT.to_json()) == LAYOUT
