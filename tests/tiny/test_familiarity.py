"""How unlike a picture is to the trio's scenes: by hand in NumPy, and on pictures that were not measured."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from lens_multimodal import attach_vision
from lens_multimodal.image.pictures import as_picture
from lens_multimodal.tiny import load_vision, scenes_folder
from lens_multimodal.tiny.familiarity import EVERY, EXCEEDED, FALSE_ALARMS, Familiarity, familiarity_of, measured_limit
from tests.lenses import make_lens

pytestmark = pytest.mark.newest

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def encoder():
    return load_vision()


@pytest.fixture(scope="module")
def known(encoder):
    return Familiarity.of_scenes(encoder)


@pytest.fixture(scope="module")
def scenes():
    return [as_picture(file) for file in sorted((scenes_folder() / "images").iterdir())]


def stream_after(encoder, depth, pictures):
    """By a hook on the block: unit vectors of the patches, without the class token."""
    kept = []
    hook = encoder.module.blocks[depth - 1].register_forward_hook(lambda _block, _given, out: kept.append(out[:, 1:]))
    with torch.no_grad():
        encoder(encoder.preprocessing(pictures))
    hook.remove()
    found = kept[0].double().numpy()
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def by_hand(patches, known):
    return (1 - (patches @ known.reshape(-1, known.shape[-1]).T).max(-1)).mean()


def test_the_distance_by_hand(encoder, known, scenes):
    patches = stream_after(encoder, 4, scenes[::EVERY])
    own = [by_hand(patches[k], np.delete(patches, k, axis=0)) for k in range(len(patches))]
    limit = np.quantile(own, 1 - EXCEEDED)
    assert known.limit == pytest.approx(limit, rel=1e-3)  # recorded by the recipe, from the weights that ship
    assert measured_limit(encoder, scenes_folder()) == pytest.approx(limit, rel=1e-3)
    other = [ImageOps.flip(scenes[0]), ImageOps.invert(scenes[1])]
    expected = [by_hand(found, patches) / limit for found in stream_after(encoder, 4, other)]
    np.testing.assert_allclose(known.distances(other), expected, rtol=1e-3)


def test_few_of_the_other_scenes_are_flagged(known, scenes):
    others = scenes[1::EVERY]
    assert len(others) == 220
    flagged = int(known.unfamiliar(others).sum())
    # At the documented rate, 7 are expected; 18 or more have a probability of 1 in 5,000.
    assert flagged <= 17, f"{flagged} of 220, {FALSE_ALARMS:.0%} expected"


def noise():
    return Image.fromarray(RANDOM.integers(0, 256, (128, 128, 3), dtype=np.uint8))


def page_of_text():
    page = Image.new("RGB", (200, 200), "white")
    pen = ImageDraw.Draw(page)
    for top in range(5, 195, 12):
        pen.text((5, top), "".join(RANDOM.choice(list("abcdefgh ijklmnop"), 32)), fill="black")
    return page


@pytest.mark.parametrize("other", [noise, page_of_text])
def test_other_pictures_are_flagged(known, other):
    assert int(known.unfamiliar([other() for _ in range(50)]).sum()) >= 45


def test_nothing_is_said_of_other_encoders():
    assert familiarity_of(make_lens().images) is None
    with attach_vision() as lens:
        assert familiarity_of(lens.images) is not None
