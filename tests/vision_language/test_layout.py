"""What each image position shows, against a bright patch through the whole unmodified model, and known geometries."""

import numpy as np
import pytest
import torch
from PIL import Image

from lens_multimodal.analysis import receptive_field
from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.image.measured_layout import painted_coordinates, tile_scales
from tests.vision_language.conftest import noise

SIZES = [(96, 60), (60, 96), (80, 80)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_bright_patch_moves_the_position_that_shows_it(pair, width, height):
    """With attention: every vector moves, and the vector whose box contains the patch moves most in its grid."""
    if pair.family == "blip-2":
        pytest.skip("queries show no place")
    image = pair.lens.embed([noise(0, width=width, height=height)])[0]
    assert image.layout.is_placed
    right, tried = 0, 0
    for grid in image.layout.grids:
        for index in np.random.default_rng(0).permutation(grid.indices)[:4]:
            box = image.layout.box(int(index))
            if box is None or box.area < 9:
                continue
            tried += 1
            right += _moved_most(pair, width, height, box, grid.indices) == index
    assert tried >= 4
    assert right == tried


def _moved_most(pair, width, height, box, indices):
    dark = np.full((height, width, 3), 100, dtype=np.uint8)
    bright = dark.copy()
    margin_x, margin_y = (box.right - box.left) / 4, (box.bottom - box.top) / 4
    rows = slice(round(box.top + margin_y), max(round(box.bottom - margin_y), round(box.top + margin_y) + 1))
    columns = slice(round(box.left + margin_x), max(round(box.right - margin_x), round(box.left + margin_x) + 1))
    bright[rows, columns] = 255
    before, after = pair.lens.images.vectors([Image.fromarray(dark), Image.fromarray(bright)])
    moved = (after - before).norm(dim=-1)[list(indices)]
    return indices[int(moved.argmax())]


def test_the_first_grid_covers_the_picture_that_the_model_sees(pair):
    if pair.family == "blip-2":
        pytest.skip("queries show no place")
    image = pair.lens.embed([noise(0, width=90, height=60)])[0]
    for grid in image.layout.grids:
        boxes = [box for index in grid.indices if (box := image.layout.box(index)) is not None]
        seen = grid.geometry.seen
        assert sum(box.area for box in boxes) == pytest.approx(seen.area, rel=1e-3)
        if pair.family not in ("llava", "vipllava"):  # whose processors cut off the longer side
            assert seen.area == pytest.approx(90 * 60, rel=0.01)


def test_a_centre_crop_by_hand(pair):
    if pair.family != "llava":
        pytest.skip("only LLaVA's processor crops")
    for width, height, resized, left, top in ((96, 60, (51, 32), -9, 0), (60, 96, (32, 51), 0, -9)):
        expected = ImageGeometry(
            width=width, height=height, resized_width=resized[0], resized_height=resized[1], left=left, top=top,
            input_width=32, input_height=32, grid_h=4, grid_w=4,
        )  # fmt: skip
        assert pair.lens.embed([noise(0, width=width, height=height)])[0].geometry == expected


GRIDS = {
    "llava": [(4, 4)], "vipllava": [(4, 4)], "llava-next": [(6, 8), (4, 4)], "llava-onevision": [(6, 8), (4, 4)],
    "internvl": [(4, 6), (2, 2)], "idefics3": [(4, 6), (2, 2)], "smolvlm": [(4, 6), (2, 2)], "mistral3": [(4, 6)],
    "aya": [(2, 4), (2, 2)], "blip-2": [], "llama-4": [(4, 4), (2, 2)], "gemma-3": [(2, 2)], "paligemma": [(4, 4)],
    "paligemma-2": [(4, 4)], "qwen2-vl": [(4, 6)], "qwen2.5-vl": [(4, 6)],
}  # fmt: skip
"""Rows and columns by hand from each processor's rules, for a picture of 96 x 60 pixels."""


def test_grids_and_positions_without_pixels(pair):
    prompt = pair.lens.prompt(noise(0), " a dog")
    (span,) = prompt.spans[0]
    layout = span.image.layout
    assert [(grid.grid_h, grid.grid_w) for grid in layout.grids] == GRIDS[pair.family]
    assert ImageLayout.from_json(layout.to_json()) == layout
    without = [index for index in range(len(span.image)) if layout.place(index) is None]
    if pair.family in ("llava-next", "llava-onevision"):
        assert without == [16 + 8 + 9 * row for row in range(6)]
    else:
        assert len(without) == (4 if pair.family == "blip-2" else 0)
    names = pair.lens.to_str_tokens(prompt)
    assert [names[position] == "<image>" for position in span.positions] == [
        index in without for index in range(len(span.image))
    ]


def test_receptive_fields_lie_where_the_active_position_looks(pair):
    image = pair.lens.embed([noise(0)])[0]
    values = torch.zeros(len(image))
    if pair.family == "blip-2":
        with pytest.raises(ValueError, match="place"):
            receptive_field(values, image.layout)
        return
    index = max(i for i in image.layout.grids[0].indices if image.layout.box(i) is not None)
    values[index] = 1.0
    field = receptive_field(values, image.layout)
    assert field.heat.shape == (60, 96)
    box = image.layout.box(index)
    y, x = divmod(int(torch.nan_to_num(field.heat, nan=-1).argmax()), 96)
    assert box.left - 1 <= x <= box.right
    assert box.top - 1 <= y <= box.bottom


def test_words_between_image_vectors_are_text(pair):
    prompt = pair.lens.prompt(noise(0), " a dog")
    ids = prompt.tokens[0]
    assert int(prompt.image_mask.sum()) == len(prompt.spans[0][0].image)
    assert bool((ids[prompt.image_mask[0]] >= pair.lens.shape.d_vocab).all())
    assert bool((ids[prompt.text_mask[0]] < pair.lens.shape.d_vocab).all())
    span = prompt.spans[0][0]
    apart = span.stop - span.start > len(span.positions)
    assert apart == (pair.family in ("idefics3", "smolvlm", "mistral3", "aya", "llama-4"))


@pytest.mark.parametrize(("resized", "crop"), [((64, 40), (16, 8, 48, 40)), ((200, 120), (100, 30, 164, 94))])
def test_painted_coordinates_tell_how_a_tile_was_cut(resized, crop):
    """A resize and a crop by Pillow."""
    width, height = 320, 200
    tiles = [own.resize(resized, Image.Resampling.BICUBIC).crop(crop) for own in painted_coordinates(width, height)]
    pixels = [torch.from_numpy(np.asarray(tile).copy()).permute(2, 0, 1)[None] for tile in tiles]
    (scale,) = tile_scales(pixels, width=width, height=height)
    assert scale.resized_width == pytest.approx(resized[0], rel=5e-4)
    assert scale.resized_height == pytest.approx(resized[1], rel=5e-4)
    assert (scale.left, scale.top) == pytest.approx((-crop[0], -crop[1]), abs=0.05)


def test_a_tile_of_padding_shows_no_picture():
    assert tile_scales([torch.zeros(1, 3, 8, 8)], width=30, height=20) == [None]
