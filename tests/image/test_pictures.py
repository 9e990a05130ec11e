"""Pictures in every form, and files that are not pictures."""

import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from lens_multimodal.image.pictures import (
    MAX_PIXELS,
    NotAPicture,
    PictureTooLarge,
    as_picture,
    as_pictures,
    read_picture,
)
from tests.lenses import picture


def rgb(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def png_claiming(width: int, height: int, folder) -> str:
    """A valid PNG header, and next to nothing after it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path = folder / f"{width}x{height}.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))
    return str(path)


# --- forms -------------------------------------------------------------------------------------------------


def test_arrays_and_tensors_of_any_layout_are_the_same_picture():
    image = picture(1)
    pixels = rgb(image)
    forms = [
        pixels,
        pixels.astype(np.int64),
        pixels.astype(np.uint16) * 257,
        pixels / 255,
        (pixels / 255).astype(np.float32),
        np.moveaxis(pixels, -1, 0),
        np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1),
        torch.from_numpy(pixels.copy()),
        torch.from_numpy(pixels.copy()).movedim(-1, 0),
        torch.from_numpy(pixels.copy()).movedim(-1, 0).double() / 255,
        (torch.from_numpy(pixels.copy()) / 255).requires_grad_(),
    ]
    for form in forms:
        assert np.array_equal(rgb(as_picture(form)), pixels)
    assert len(as_pictures(forms)) == len(forms)
    assert np.abs(rgb(as_picture((torch.from_numpy(pixels.copy()) / 255).bfloat16())).astype(int) - pixels).max() <= 1


def test_where_two_readings_fit():
    tiny = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    assert as_picture(tiny).size == (4, 3)
    assert as_picture(torch.from_numpy(tiny)).size == (1, 4)
    assert rgb(as_picture(torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None])).tolist() == [[[10, 20, 30]]]


def test_grey_pictures():
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
    expected = np.stack([grey] * 3, axis=-1)
    for form in (grey, grey[..., None], grey[None], grey / 255, torch.from_numpy(grey), Image.fromarray(grey)):
        assert np.array_equal(rgb(as_picture(form)), expected)
    bits = grey > 100
    for form in (bits, torch.from_numpy(bits), Image.fromarray(bits)):
        assert np.array_equal(rgb(as_picture(form))[..., 0], bits * 255)


def test_transparency_lies_on_white(tmp_path):
    pixels = np.zeros((6, 5, 4), dtype=np.uint8)
    pixels[..., 3] = np.arange(30).reshape(6, 5) * 8
    expected = 255 - pixels[..., 3].astype(int)
    premultiplied = Image.fromarray(pixels).convert("RGBa")
    grey = Image.fromarray(pixels).convert("LA")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.info["transparency"] = 0
    palette.save(tmp_path / "palette.png")
    for form in (pixels, Image.fromarray(pixels), premultiplied, grey, torch.from_numpy(pixels).movedim(-1, 0)):
        assert np.abs(rgb(as_picture(form))[..., 0].astype(int) - expected).max() <= 1
    assert (rgb(as_picture(tmp_path / "palette.png")) == 255).all()
    keyed = Image.fromarray(rgb(picture(2)))
    keyed.info["transparency"] = tuple(int(v) for v in rgb(picture(2))[0, 0])
    assert (rgb(as_picture(keyed))[0, 0] == 255).all()


def test_sixteen_bits_become_eight(tmp_path):
    wide = np.linspace(0, 65535, 60).reshape(6, 10).astype(np.uint16)
    expected = np.rint(wide / 257)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide).save(tmp_path / "wide.tiff")
    thirty_two = Image.fromarray(wide.astype(np.int32))
    files = [tmp_path / "wide.png", tmp_path / "wide.tiff"]
    for form in (wide, torch.from_numpy(wide), Image.fromarray(wide), thirty_two, *files):
        assert np.array_equal(rgb(as_picture(form))[..., 0], expected)
    floats = Image.fromarray((wide / 65535).astype(np.float32))
    assert np.array_equal(rgb(as_picture(floats))[..., 0], expected)


def test_colour_spaces_and_palettes(tmp_path):
    image = picture(3)
    cmyk = image.convert("CMYK")
    cmyk.save(tmp_path / "cmyk.tiff")
    assert np.array_equal(rgb(as_picture(tmp_path / "cmyk.tiff")), rgb(cmyk.convert("RGB")))
    for mode in ("P", "HSV", "YCbCr", "1", "L"):
        assert np.array_equal(rgb(as_picture(image.convert(mode))), rgb(image.convert(mode).convert("RGB")))


def test_turned_by_its_camera(tmp_path):
    image = picture(4)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    found = as_picture(tmp_path / "turned.png")
    assert found.size == (image.height, image.width)
    assert np.array_equal(rgb(found), np.rot90(rgb(image), k=-1))


def test_moving_pictures_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (rgb(as_picture(tmp_path / "moving.gif")) == (255, 0, 0)).all()


def test_one_pixel_and_many(lens):
    one, wide = as_picture(np.full((1, 1, 3), 200, np.uint8)), as_picture(Image.new("RGB", (6000, 1000), "green"))
    assert one.size == (1, 1)
    pixels = lens.vision.preprocessing([one, wide, as_picture(Image.new("L", (1, 5000)))])
    assert pixels.shape == (3, 3, 16, 24)
    assert (pixels[0] == pixels[0, 0, 0, 0]).all()
    assert isinstance(lens.caption(one), str)


def test_the_given_picture_stays_as_it_is():
    pixels = rgb(picture(5)).copy()
    before = pixels.copy()
    as_picture(pixels)
    as_picture(torch.from_numpy(pixels))
    assert np.array_equal(pixels, before)


# --- what is not a picture ---------------------------------------------------------------------------------


def test_files_that_are_not_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png'$"):
        as_picture(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match=r"folder$"):
        as_picture(tmp_path)
    for body in (b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        (tmp_path / "text.png").write_bytes(body)
        with pytest.raises(NotAPicture, match=r"text\.png"):
            as_picture(str(tmp_path / "text.png"))


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "bmp"])
def test_files_that_are_cut_off(tmp_path, kind):
    image = picture(6, height=64, width=64)
    image.save(tmp_path / f"whole.{kind}")
    whole = (tmp_path / f"whole.{kind}").read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NotAPicture, match=r"cut\."):
        as_picture(path)
    if kind == "jpg":
        with Image.open(path) as opened, pytest.raises(ValueError, match=r"damaged.*truncated"):
            as_picture(opened)


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path):
    for width, height in ((10_001, 10_000), (20_000, 20_000), (2**31 - 1, 1)):
        with pytest.raises((PictureTooLarge, NotAPicture), match=f"{MAX_PIXELS:,}|damaged"):
            as_picture(png_claiming(width, height, tmp_path))


def test_pictures_up_to_the_limit_are_not_called_too_large(tmp_path):
    """Between Pillow's warning and this library's limit."""
    with pytest.raises(NotAPicture):
        as_picture(png_claiming(9_500, 10_000, tmp_path))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((5, 5, 2)), r"\[5, 5, 2\]"),
        (np.zeros((4,)), r"\[4\]"),
        (np.zeros((2, 2, 4, 4, 3)), r"\[2, 2, 4, 4, 3\]"),
        (np.zeros((0, 4, 3)), r"\b4 x 0\b"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4, 3), np.inf), "NaN"),
        (np.full((4, 4, 3), 255.0), r"\b0\.\.1\b.* 255\.\.255\b"),
        (np.full((4, 4, 3), -0.5), r"\b0\.\.1\b.* -0\.5\.\.-0\.5\b"),
        (np.full((4, 4, 3), -1), r"\b0\.\.255\b.* -1\.\.-1$"),
        (np.full((4, 4, 3), 256), r"\b0\.\.255\b.* 256\.\.256$"),
        (np.full((4, 4, 3), "a"), "<U1"),
        (np.zeros((4, 4, 3), dtype=complex), "complex128"),
        (torch.full((3, 4, 4), torch.nan), "NaN"),
    ],
)
def test_arrays_that_are_not_pictures(pixels, message):
    with pytest.raises(ValueError, match=message):
        as_picture(pixels)


def test_other_things():
    for thing in (None, 3, b"bytes", {"a": 1}, [picture(0)]):
        with pytest.raises(TypeError, match=rf"picture.* {type(thing).__name__}$"):
            as_picture(thing)
    for nothing in ([], (), np.zeros((0, 3, 4, 4)), torch.zeros(0, 3, 4, 4)):
        with pytest.raises(ValueError, match="picture"):
            as_pictures(nothing)


def test_a_float_picture_of_pillow_with_nan():
    with pytest.raises(ValueError, match="NaN"):
        as_picture(Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)))


def test_reading_changes_no_warning_filters(tmp_path):
    """Filters belong to the process: changed while a thread reads pictures, they lose the warnings of others."""

    class OfAnotherThread(BytesIO):
        def read(self, *size: int | None) -> bytes:
            warnings.warn("of another thread", stacklevel=2)
            return super().read(*size)

    picture(1).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="of another thread"):
        read_picture(OfAnotherThread((tmp_path / "a.png").read_bytes()), name="a.png")
