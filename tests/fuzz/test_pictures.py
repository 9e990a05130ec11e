"""Pictures of any kind, and files that only look like one."""

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lens_multimodal.image.pictures import MAX_PIXELS, PictureTooLarge, as_picture, as_pictures
from tests.fuzz import anything

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO")


@given(anything.pictures)
def test_anything_as_a_picture(attempt, picture):
    found = attempt(lambda: as_picture(picture))
    assert found is None or (isinstance(found, Image.Image) and found.mode == "RGB" and min(found.size) > 0)


@given(st.lists(anything.pictures, max_size=3) | anything.pictures)
def test_anything_as_pictures(attempt, pictures):
    found = attempt(lambda: as_pictures(pictures))
    assert found is None or all(picture.mode == "RGB" for picture in found)


@given(anything.pictures | st.lists(anything.pictures, max_size=2), anything.texts | anything.odd)
def test_anything_as_a_prompt(attempt, lens, pictures, text):
    prompt = attempt(lambda: lens.prompt(pictures, text), lens)
    if prompt is not None:
        assert prompt.image_pos.shape[1] == lens.vision.n_patches
        lens.forget(prompt)


@given(st.sampled_from(FORMATS), st.data())
def test_damaged_files(attempt, tmp_path_factory, form, data):
    """Cut off, bytes changed, bytes put in, and nothing but noise after the first bytes."""
    content = bytearray(_file(form))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(content)))
        content[at:at] = data.draw(st.binary(max_size=40))
    _read(attempt, tmp_path_factory, bytes(content), form)


@given(st.sampled_from(FORMATS), st.integers(0, 24), st.binary(max_size=200))
def test_noise_behind_a_true_beginning(attempt, tmp_path_factory, form, kept, noise):
    _read(attempt, tmp_path_factory, _file(form)[:kept] + noise, form)


@given(
    st.text(max_size=60)
    | st.sampled_from(["", "/", "..", "a\x00b", "~", "/dev/null", "/dev/zero", "C:\\x", "a" * 5000])
)
def test_paths(attempt, name):
    attempt(lambda: as_picture(name))
    attempt(lambda: as_picture(Path(name)))


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1)])
def test_an_image_bomb_is_refused_before_it_is_decoded(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_claiming(*size))
    warnings.simplefilter("error")
    with pytest.raises(PictureTooLarge, match=f"{MAX_PIXELS:,}"):
        as_picture(path)


def test_a_bomb_in_a_comment_is_refused(tmp_path):
    """A few kilobytes of a PNG that unpack to a gigabyte of text."""
    packer, packed = zlib.compressobj(9), b""
    for _ in range(64):
        packed += packer.compress(bytes(2**22))
    chunk = b"comment\x00\x00" + packed + packer.flush()
    content = _file("PNG")
    header = content[:33]
    path = tmp_path / "bomb.png"
    path.write_bytes(header + _chunk(b"zTXt", chunk) + content[33:])
    with pytest.raises(ValueError, match=r"bomb\.png.*damaged"):
        as_picture(path)


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(200)]
    frames[0].save(tmp_path / "long.gif", save_all=True, append_images=frames[1:])
    assert as_picture(tmp_path / "long.gif").getpixel((0, 0)) == (0, 0, 0)


def test_a_program_is_not_run(tmp_path):
    """PostScript is a picture format to Pillow, and a programming language."""
    path, witness = tmp_path / "picture.png", tmp_path / "witness"
    path.write_text(
        f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n({witness}) (w) file closefile\n%%EOF\n"
    )
    with pytest.raises(ValueError, match="picture"):
        as_picture(path)
    assert not witness.exists()


def _read(attempt, tmp_path_factory, content: bytes, form: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged.{form.lower()}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attempt(lambda: as_picture(path))


def _file(form: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=form)
    return buffer.getvalue()


def _png_claiming(width: int, height: int) -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(100)))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
