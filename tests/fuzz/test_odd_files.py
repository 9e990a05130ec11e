"""EXIF blocks and COCO objects of every kind: intact pixels are read, and no mask is invented."""

import io
import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, TiffImagePlugin
from pycocotools import mask as rle

from lens_multimodal.data import read_coco
from lens_multimodal.image.orientation import TURNS, UPRIGHT
from lens_multimodal.image.pictures import read_picture
from tests.fuzz.odd_files import coco_objects, exif_blocks
from tests.picture_files import png_chunk

HEIGHT, WIDTH = 14, 19
PIXELS = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def _saved(form: str, block: bytes) -> bytes:
    buffer = io.BytesIO()
    if form == "PNG with text":
        text = PngImagePlugin.PngInfo()
        text.add_text("Raw profile type exif", f"\nexif\n{len(block)}\n{block.hex()}\n")
        IMAGE.save(buffer, "PNG", pnginfo=text)
    elif form == "PNG at its end":
        IMAGE.save(buffer, "PNG")
        end = buffer.getvalue().index(b"IEND") - 4
        return buffer.getvalue()[:end] + png_chunk(b"eXIf", block) + buffer.getvalue()[end:]
    elif form == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x8769] = 10**5
        IMAGE.save(buffer, "TIFF", tiffinfo=tags)
        content = bytearray(buffer.getvalue())
        at = content.find((0x8769).to_bytes(2, "little"))
        content[at + 2 : at + 12] = b"\x04\x00\x01\x00\x00\x00" + len(content).to_bytes(4, "little")
        return bytes(content) + block[8:]
    else:
        more = {"lossless": True} if form == "WEBP" else {"quality": 100, "subsampling": 0}
        IMAGE.save(buffer, form, exif=b"Exif\x00\x00" + block, **more)
    return buffer.getvalue()


@given(exif_blocks(), st.sampled_from(["PNG", "PNG with text", "PNG at its end", "JPEG", "WEBP", "TIFF"]))
def test_exif_blocks(attempt, block, form):
    """The picture is one of the eight turns of the true pixels."""
    content = _saved(form, block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = attempt(lambda: read_picture(io.BytesIO(content), name=form))
    assert found is not None, "an intact picture is never refused"
    tolerance = 3 if form == "JPEG" else 0
    turned = [turn.pixels(PIXELS).astype(int) for turn in (UPRIGHT, *TURNS.values())]
    near = [t for t in turned if t.shape == np.asarray(found).shape]
    assert min(np.abs(np.asarray(found) - t).mean() for t in near) <= tolerance


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    (folder / "images").mkdir()
    IMAGE.save(folder / "images" / "a.png")
    return folder


@pytest.mark.filterwarnings("ignore")
@given(st.lists(coco_objects(height=HEIGHT, width=WIDTH), max_size=4))
def test_odd_coco_objects(attempt, coco, objects):
    """Each object is read with the mask that pycocotools makes of it, or left out; both are counted."""
    entry = {"id": 1, "file_name": "a.png", "height": float(HEIGHT), "width": WIDTH}
    content = {"images": [entry], "annotations": objects, "categories": [{"id": 2, "name": "dog"}]}
    (coco / "instances.json").write_text(json.dumps(content))
    scenes = attempt(lambda: read_coco(coco, with_captions=False))
    assert scenes is not None, "odd objects never cost the set"
    (scene,) = scenes
    assert len(scene.objects) + scenes.left_out.count == len(objects)
    for thing in scene.objects:
        np.testing.assert_array_equal(thing.seg_mask, _mask(thing.segmentation))
        assert thing.seg_mask.any()
    attempt(lambda: read_coco(coco, with_captions=False, strict=True))


def _mask(segmentation):
    if isinstance(segmentation, list):
        parts = [part for part in segmentation if len(part) >= 6]
        return rle.decode(rle.merge(rle.frPyObjects(parts, HEIGHT, WIDTH))).astype(bool)
    if isinstance(segmentation["counts"], list):
        return rle.decode(rle.frPyObjects(segmentation, HEIGHT, WIDTH)).astype(bool)
    return rle.decode(segmentation).astype(bool)
