"""Patches in a random order, and vectors that read some of them."""

import numpy as np
import pytest
import torch

from lens_multimodal.image.flat_patches import assembled, touched_patches
from lens_multimodal.image.measured_layout import TouchedPixels, painted_coordinates

SIDE, ROWS, COLUMNS = 4, 3, 5


@pytest.fixture
def order():
    return torch.randperm(ROWS * COLUMNS, generator=torch.Generator().manual_seed(0))


def cut(picture, order, *, frames=2):
    """A picture of `ROWS` x `COLUMNS` patches as rows of numbers, channel after channel, each over several frames."""
    pixels = torch.from_numpy(np.asarray(picture).astype(np.float32))
    grid = pixels.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).permute(0, 2, 4, 1, 3).reshape(ROWS * COLUMNS, 3, 1, SIDE, SIDE)
    return grid.expand(-1, -1, frames, -1, -1)[order].reshape(ROWS * COLUMNS, -1)


def test_patches_in_any_order_make_the_picture(order):
    painted = painted_coordinates(COLUMNS * SIDE, ROWS * SIDE)
    pictures, cells = assembled([cut(own, order) for own in painted], side=SIDE)
    assert cells.tolist() == [list(divmod(index, COLUMNS)) for index in order.tolist()]
    for own, picture in zip(painted, pictures, strict=True):
        expected = torch.from_numpy(np.asarray(own).astype(np.float32)).reshape(ROWS * SIDE, COLUMNS * SIDE, 3)
        assert torch.equal(picture, expected.permute(2, 0, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_vector_has_the_pixels_that_it_reads(order, dtype):
    """Vector 0 reads nothing, vector 1 the first two patches of the top row, the others one patch each."""
    place = torch.argsort(order)
    readers = [[], [0, 1], *([index] for index in range(2, ROWS * COLUMNS - 1))]
    weight = torch.randn(SIDE * SIDE * 6, 8, generator=torch.Generator().manual_seed(1)).to(dtype)

    def vectors(rows):
        read = [
            torch.stack([rows[place[i]] for i in own]).sum(0) if own else torch.zeros_like(rows[0]) for own in readers
        ]
        return torch.tanh(torch.stack(read) @ weight / 10)

    cells = torch.tensor([divmod(index, COLUMNS) for index in order.tolist()])
    found = touched_patches(vectors, torch.zeros(len(order), len(weight), dtype=dtype), cells, side=SIDE)
    assert found[0] is None
    assert found[1] == TouchedPixels(tile=0, top=0, bottom=SIDE, left=0, right=2 * SIDE)
    for own, index in zip(found[2:], range(2, ROWS * COLUMNS - 1), strict=True):
        row, column = divmod(index, COLUMNS)
        assert own == TouchedPixels(
            tile=0, top=row * SIDE, bottom=(row + 1) * SIDE, left=column * SIDE, right=(column + 1) * SIDE
        )


def test_a_patch_that_two_vectors_read_places_neither():
    rows = torch.zeros(2, SIDE * SIDE * 3)
    cells = torch.tensor([[0, 0], [0, 1]])
    weight = torch.randn(SIDE * SIDE * 3, 8, generator=torch.Generator().manual_seed(1))

    def vectors(own):
        return torch.stack([own[0], own[0] * 0.7]) @ weight

    assert touched_patches(vectors, rows, cells, side=SIDE) == [None, None]
