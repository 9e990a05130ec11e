"""Modes of more or fewer than eight bits, and one transparent colour: the right values, or a refusal."""

import io

import numpy as np
import pytest
from PIL import Image

from lens_multimodal.image.pictures import NotAPicture, as_picture, read_picture
from tests.picture_files import png, tiff

RANDOM = np.random.default_rng(3)
GREY16 = RANDOM.integers(0, 65536, (6, 9), dtype=np.uint16)


def grey(content: bytes) -> np.ndarray:
    """The grey values read from a file, which are equal in the three channels."""
    found = np.asarray(read_picture(io.BytesIO(content), name="file"))
    assert (found == found[..., :1]).all()
    return found[..., 0]


def test_sixteen_bit_grey_of_every_format() -> None:
    wanted = np.rint(GREY16 / 65535 * 255)
    pgm = b"P5 9 6 65535\n" + GREY16.astype(">u2").tobytes()
    for content in (png(GREY16, bits=16), tiff(GREY16), pgm):
        np.testing.assert_array_equal(grey(content), wanted)
    np.testing.assert_array_equal(grey(tiff(GREY16, white_is_zero=True)), np.rint((1 - GREY16 / 65535) * 255))


def test_twelve_bit_tiff_reaches_white() -> None:
    twelve = RANDOM.integers(0, 4096, (4, 6), dtype=np.uint16)
    twelve[0, :2] = 0, 4095
    found = grey(tiff(twelve, bits=12))
    assert found[0, :2].tolist() == [0, 255]
    np.testing.assert_array_equal(found, np.rint(twelve / 4095 * 255))


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_float_tiff(white_is_zero: bool) -> None:
    unit = RANDOM.random((5, 7)).astype(np.float32)
    wanted = np.rint((1 - unit.astype(float) if white_is_zero else unit.astype(float)) * 255)
    np.testing.assert_array_equal(grey(tiff(unit, white_is_zero=white_is_zero)), wanted)


@pytest.mark.parametrize(
    "pixels",
    [
        RANDOM.integers(0, 2**32, (4, 5), dtype=np.uint32),
        RANDOM.integers(0, 256, (4, 5), dtype=np.uint32),
        RANDOM.integers(0, 256, (4, 5), dtype=np.int32),
        RANDOM.integers(-(2**15), 2**15, (4, 5), dtype=np.int16),
        RANDOM.integers(-128, 128, (4, 5), dtype=np.int8),
        RANDOM.random((4, 5), dtype=np.float32) * 255,
        RANDOM.random((4, 5)),
    ],
    ids=lambda pixels: f"{pixels.dtype} up to {pixels.max():.0f}",
)
def test_tiff_of_which_nothing_tells_what_is_white_is_refused(pixels: np.ndarray) -> None:
    """Never silently black."""
    with pytest.raises(NotAPicture, match="file"):
        grey(tiff(pixels))


def test_integer_images_of_pillow() -> None:
    wide = Image.fromarray(GREY16.astype(np.int32))
    np.testing.assert_array_equal(np.asarray(as_picture(wide))[..., 0], np.rint(GREY16 / 65535 * 255))
    assert not np.asarray(as_picture(Image.new("I", (3, 2)))).any()
    for values in ([[0, 255]], [[1, 2]], [[-1, 300]], [[0, 65536]]):
        with pytest.raises(ValueError, match=rf"{values[0][0]}\.\.{values[0][1]}"):
            as_picture(Image.fromarray(np.array(values, dtype=np.int32)))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey(bits: int) -> None:
    """The value in the file's own bit depth becomes white, and no other value."""
    top = 2**bits - 1
    pixels = RANDOM.integers(0, top + 1, (8, 8), dtype=np.uint16)
    key = int(pixels[0, 0])
    values = np.where(pixels == key, 255, np.rint(pixels / top * 255))
    np.testing.assert_array_equal(grey(png(pixels, bits=bits, transparent=[key])), values)
    np.testing.assert_array_equal(grey(png(pixels, bits=bits)), np.rint(pixels / top * 255))


def test_one_transparent_colour() -> None:
    pixels = RANDOM.integers(0, 3, (6, 7, 3), dtype=np.uint8)
    key = pixels[2, 3]
    found = np.asarray(read_picture(io.BytesIO(png(pixels, transparent=key.tolist())), name="file"))
    np.testing.assert_array_equal(found, np.where((pixels == key).all(-1, keepdims=True), 255, pixels))
    for wide in (pixels.astype(np.uint16), pixels.astype(np.uint16) * 30000):
        key16 = wide[2, 3].tolist()
        with pytest.raises(NotAPicture, match="16-bit"):
            read_picture(io.BytesIO(png(wide, bits=16, transparent=key16)), name="file")
        plain = np.asarray(read_picture(io.BytesIO(png(wide, bits=16)), name="file")).astype(float)
        assert np.abs(plain - wide / 257).max() <= 1


def test_an_image_already_loaded_keeps_its_transparent_colour() -> None:
    image = Image.open(io.BytesIO(png(GREY16, bits=16, transparent=[int(GREY16[1, 1])])))
    image.load()
    before = dict(image.info)
    found = np.asarray(as_picture(image))[..., 0]
    np.testing.assert_array_equal(found, np.where(GREY16[1, 1] == GREY16, 255, np.rint(GREY16 / 257)))
    assert image.info == before
