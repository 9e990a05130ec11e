import numpy as np
import pytest
import torch
from PIL import Image

from lens_multimodal.analysis import ImageGeometry
from lens_multimodal.image.preprocessing import Preprocessing

PREPROCESSINGS = {
    "squash": Preprocessing(height=64, width=64),
    "squash and crop": Preprocessing(height=64, width=64, crop_pct=0.8),
    "short side": Preprocessing(height=64, width=64, crop_mode="center"),
    "short side and crop": Preprocessing(height=64, width=64, crop_mode="center", crop_pct=0.9),
    "wide input": Preprocessing(height=48, width=80, crop_mode="center", crop_pct=0.95),
    "padded": Preprocessing(height=64, width=64, crop_mode="border"),
    "padded and crop": Preprocessing(height=64, width=64, crop_mode="border", crop_pct=0.85),
}
SIZES = [(150, 100), (97, 161), (64, 64), (333, 90)]

each_geometry = pytest.mark.parametrize(
    ("name", "width", "height"), [(name, *size) for name in PREPROCESSINGS for size in SIZES]
)


def geometry_of(name, width, height, grid=(4, 4)):
    return ImageGeometry.of(PREPROCESSINGS[name], width=width, height=height, grid_h=grid[0], grid_w=grid[1])


def preprocessed(name, pixels):
    """The encoder's input for an RGB array, back on the scale of the pixels (0 to 255)."""
    return (PREPROCESSINGS[name]([Image.fromarray(pixels)])[0] * 0.5 + 0.5) * 255


@each_geometry
def test_every_input_pixel_comes_from_where_the_geometry_says(name, width, height):
    """A ramp whose values are coordinates goes through the real preprocessing; what arrives is where it was."""
    g = geometry_of(name, width, height)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    ramp = np.stack([x / width * 255, y / height * 255, np.full_like(x, 255)], axis=-1).round().astype(np.uint8)
    arrived = preprocessed(name, ramp)
    rows, cols = torch.meshgrid(torch.arange(g.input_height) + 0.5, torch.arange(g.input_width) + 0.5, indexing="ij")
    expected_x = (cols - g.left) / g.resized_width * 255
    expected_y = (rows - g.top) / g.resized_height * 255
    inside = (expected_x > 8) & (expected_x < 247) & (expected_y > 8) & (expected_y < 247)
    assert inside.float().mean() > 0.2
    # Half a pixel of the smaller of both pictures is the resolution of 8-bit ramps.
    for found, expected, length in ((arrived[0], expected_x, width), (arrived[1], expected_y, height)):
        assert (found - expected)[inside].abs().max() < 1.5 + 255 * 0.25 / min(length, g.input_width)
    outside = (expected_x < 0) | (expected_x > 255) | (expected_y < 0) | (expected_y > 255)
    assert (arrived[2][outside] < 200).all()


@each_geometry
def test_a_one_patch_picture_lights_that_patch_alone(name, width, height):
    g = geometry_of(name, width, height)
    for row, col in [(1, 2), (2, 1), (0, 3)]:
        box = g.patch_box(row, col)
        if box.area < 30:
            continue
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[round(box.top) : round(box.bottom), round(box.left) : round(box.right)] = 255
        arrived = preprocessed(name, pixels)[0]
        arrived = arrived - arrived.min() if "padded" not in name else arrived
        cells = arrived.unflatten(0, (4, -1)).unflatten(2, (4, -1)).mean(dim=(1, 3))
        if "padded" in name:  # The padding is grey; compare with a picture that is black all over.
            empty = preprocessed(name, np.zeros_like(pixels))[0]
            cells = (arrived - empty).unflatten(0, (4, -1)).unflatten(2, (4, -1)).mean(dim=(1, 3))
        assert divmod(int(cells.argmax()), 4) == (row, col)
        others = cells.sum() - cells[row, col]
        assert others < 0.35 * cells[row, col]


@each_geometry
def test_boxes_tile_what_is_seen(name, width, height):
    g = geometry_of(name, width, height)
    total = sum(g.patch_box(row, col).area for row in range(4) for col in range(4))
    assert total == pytest.approx(g.seen.area)
    assert g.seen_mask.sum() == pytest.approx(g.seen.area, abs=width + height)


@each_geometry
def test_points_and_boxes_agree(name, width, height):
    g = geometry_of(name, width, height)
    for x, y in np.random.default_rng(0).uniform(0, 1, (20, 2)) * (width, height):
        patch = g.patch_at(x, y)
        if patch is None:
            assert not (g.seen.left <= x < g.seen.right and g.seen.top <= y < g.seen.bottom)
        else:
            box = g.patch_box(*patch)
            assert box.left - 1e-9 <= x <= box.right + 1e-9
            assert box.top - 1e-9 <= y <= box.bottom + 1e-9


@each_geometry
def test_upsampling_peaks_in_the_patch(name, width, height):
    g = geometry_of(name, width, height)
    for row, col in [(1, 2), (2, 1)]:
        values = torch.zeros(4, 4)
        values[row, col] = 1
        heat = g.to_picture(values)
        assert heat.shape == (height, width)
        assert torch.equal(heat.isnan(), ~g.seen_mask)
        top, left = divmod(int(heat.nan_to_num(-1).argmax()), width)
        box = g.patch_box(row, col)
        assert box.left - 1 <= left <= box.right
        assert box.top - 1 <= top <= box.bottom


def test_upsampling_a_squashed_picture_is_bilinear_interpolation():
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    g = ImageGeometry.of(Preprocessing(height=64, width=64), width=150, height=100, grid_h=4, grid_w=6)
    expected = torch.nn.functional.interpolate(values[None, None], (100, 150), mode="bilinear")[0, 0]
    torch.testing.assert_close(g.to_picture(values), expected, rtol=1e-4, atol=1e-5)


def test_padding_patches_show_nothing():
    g = geometry_of("padded", 333, 90)
    assert g.patch_box(0, 0).area == 0
    assert g.patch_at(0.5, 0.5) == (1, 0)


def test_bad_input():
    g = geometry_of("squash", 150, 100)
    with pytest.raises(ValueError, match=r"\(4, 0\).* 4 rows"):
        g.patch_box(4, 0)
    with pytest.raises(ValueError, match=r"\(150, 3\).* 150 x 100\b"):
        g.patch_at(150, 3)
    with pytest.raises(ValueError, match=r"\[4, 4\], got \[4, 5\]"):
        g.to_picture(torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"\{'width': 0\}"):
        geometry_of("squash", 0, 100)
