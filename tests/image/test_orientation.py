"""EXIF turns against Pillow's own, and pictures whose EXIF data are broken."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin

from lens_multimodal.image.orientation import TURNS, UPRIGHT, exif_turn
from lens_multimodal.image.pictures import as_picture, read_picture, stored_form
from tests.lenses import picture
from tests.picture_files import exif, png_chunk

ORIENTATION, EXIF_POINTER, DESCRIPTION, RESOLUTION = 0x0112, 0x8769, 0x010E, 0x011A
IMAGE = picture(7, height=21, width=34)
PIXELS = np.asarray(IMAGE)


def turned_by_pillow(orientation: int) -> np.ndarray:
    data = Image.Exif()
    data[ORIENTATION] = orientation
    buffer = io.BytesIO()
    IMAGE.save(buffer, "PNG", exif=data)
    return np.asarray(ImageOps.exif_transpose(Image.open(buffer)))


@pytest.mark.parametrize("orientation", range(9))
def test_every_orientation_of_pixels_sides_and_boxes(orientation: int) -> None:
    turn = TURNS.get(orientation, UPRIGHT)
    upright = turn.pixels(PIXELS)
    np.testing.assert_array_equal(upright, turned_by_pillow(orientation))
    np.testing.assert_array_equal(np.asarray(turn.image(IMAGE)), upright)
    height, width = PIXELS.shape[:2]
    assert turn.sides(width, height) == (upright.shape[1], upright.shape[0])
    mask = np.zeros((height, width), dtype=bool)
    mask[3:8, 20:33] = True
    rows, columns = np.nonzero(turn.pixels(mask))
    left, top, across, down = turn.box((20.0, 3.0, 13.0, 5.0), width=width, height=height)
    assert (left, top) == (columns.min(), rows.min())
    assert (left + across, top + down) == (columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("kind", ["png", "webp", "jpg", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_once(kind: str, orientation: int, tmp_path: Any) -> None:
    data = Image.Exif()
    data[ORIENTATION] = orientation
    IMAGE.save(tmp_path / f"a.{kind}", exif=data, lossless=True, quality=100, subsampling=0)
    found = np.asarray(as_picture(tmp_path / f"a.{kind}")).astype(int)
    wanted = turned_by_pillow(orientation).astype(int)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < (2 if kind == "jpg" else 1e-9)
    with Image.open(tmp_path / f"a.{kind}") as opened:
        np.testing.assert_array_equal(np.asarray(as_picture(opened)), found)


BROKEN = {
    "noise": b"\x00\x08\x00\x02\x01\x12\x00\x03" + bytes(range(20)),
    "empty": b"",
    "no header": b"Exif",
    "cut off in an entry": exif((ORIENTATION, 3, 1, 6))[:-9],
    "an orientation that is none": exif((ORIENTATION, 3, 1, 77)),
    "an orientation of many values": exif((ORIENTATION, 3, 2**31, 8)),
    "an orientation of text": exif((ORIENTATION, 2, 3, 26)),
    "an unknown type": exif((ORIENTATION, 99, 1, 6)),
    "a pointer to nowhere": exif((DESCRIPTION, 2, 99, 10**6), (EXIF_POINTER, 4, 1, 10**6)),
    "a resolution of bytes": exif((RESOLUTION, 7, 3, 6), (0x0128, 3, 1, 2)),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("form", ["PNG", "PNG at its end", "ImageMagick's PNG", "JPEG", "MPO", "WEBP"])
def test_broken_exif_refuses_no_sound_picture(broken: bytes, form: str) -> None:
    buffer, wanted = io.BytesIO(), PIXELS
    if form == "ImageMagick's PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Raw profile type exif", f"\nexif\n{len(broken)}\n{broken.hex()}zz\n", zip=True)
        IMAGE.save(buffer, "PNG", pnginfo=text)
    elif form == "PNG at its end":
        IMAGE.save(buffer, "PNG")
        end = buffer.getvalue().index(b"IEND") - 4
        buffer = io.BytesIO(buffer.getvalue()[:end] + png_chunk(b"eXIf", broken) + buffer.getvalue()[end:])
    elif form in ("JPEG", "MPO"):
        more = {"save_all": True, "append_images": [IMAGE]} if form == "MPO" else {}
        IMAGE.save(buffer, form, exif=b"Exif\x00\x00" + broken, **more)
        with Image.open(io.BytesIO(_without_exif(IMAGE))) as own:
            wanted = np.asarray(own)
    else:
        IMAGE.save(buffer, form, exif=broken, lossless=True)
    found = read_picture(io.BytesIO(buffer.getvalue()), name="broken")
    np.testing.assert_array_equal(np.asarray(found), wanted)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("pointer", [EXIF_POINTER, 0x8825])
def test_broken_folders_of_a_tiff_file(pointer: int, compression: str | None) -> None:
    """The picture is turned as its intact tag says; what the pointers lead to is ignored."""
    for noise in (b"", b"\xff\xff", exif((0xA005, 4, 1, 10**9))[8:], bytes(range(100))):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[ORIENTATION] = 6
        tags[pointer] = 10**5
        buffer = io.BytesIO()
        IMAGE.save(buffer, "TIFF", tiffinfo=tags, compression=compression)
        content = bytearray(buffer.getvalue())
        at = content.find(pointer.to_bytes(2, "little"))
        content[at + 2 : at + 12] = b"\x04\x00\x01\x00\x00\x00" + len(content).to_bytes(4, "little")
        found = read_picture(io.BytesIO(bytes(content) + noise), name="tiff")
        np.testing.assert_array_equal(np.asarray(found), np.rot90(PIXELS, k=-1))


def test_broken_exif_in_avif() -> None:
    pytest.importorskip("PIL.AvifImagePlugin")
    data = Image.Exif()
    data[DESCRIPTION] = "x" * 40
    buffer = io.BytesIO()
    IMAGE.save(buffer, "AVIF", exif=data)
    sound = np.asarray(read_picture(io.BytesIO(buffer.getvalue()), name="sound"))
    at = buffer.getvalue().index(b"MM\x00*")
    for noise in (b"??", b"II", b"MM\x00*\xff\xff\xff\xff", b"MM\x00*\x00\x00\x00\x08\xff\xff"):
        content = bytearray(buffer.getvalue())
        content[at : at + len(noise)] = noise
        np.testing.assert_array_equal(np.asarray(read_picture(io.BytesIO(content), name="broken")), sound)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "png, EXIF at its end", "webp", "jpg", "tiff"])
def test_the_form_in_which_a_file_stores_its_picture(kind: str, orientation: int, tmp_path: Path) -> None:
    path, data = tmp_path / f"a.{kind[:4].strip(',')}", Image.Exif()
    data[ORIENTATION] = orientation
    if kind.endswith("end"):
        IMAGE.save(path)
        end = path.read_bytes().index(b"IEND") - 4
        late = png_chunk(b"eXIf", exif((ORIENTATION, 3, 1, orientation)))
        path.write_bytes(path.read_bytes()[:end] + late + path.read_bytes()[end:])
    else:
        IMAGE.save(path, exif=data)
    turn = TURNS.get(orientation, UPRIGHT)
    assert stored_form(path) == (IMAGE.width, IMAGE.height, turn)
    assert as_picture(path).size == turn.sides(IMAGE.width, IMAGE.height)


def test_files_that_store_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("none")
    assert stored_form(tmp_path / "text.png") is None
    assert stored_form(tmp_path / "absent.png") is None


def test_the_turn_of_an_image_without_exif_data() -> None:
    assert exif_turn(IMAGE) == UPRIGHT


def _without_exif(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()
