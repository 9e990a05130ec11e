"""How unlike a picture is to the trio's scenes: by hand in NumPy, and on scenes that were not measured."""

import numpy as np
import pytest
import torch

from lens_multimodal import attach_vision
from lens_multimodal.image.pictures import as_picture
from lens_multimodal.tiny import load_vision, scenes_folder
from lens_multimodal.tiny.familiarity import SCENES, Familiarity, familiarity_of
from tests.lenses import make_lens


@pytest.fixture(scope="module")
def encoder():
    return load_vision()


@pytest.fixture(scope="module")
def known(encoder):
    return Familiarity.of_scenes(encoder)


@pytest.fixture(scope="module")
def files():
    return sorted((scenes_folder() / "images").iterdir())


def summary(encoder, picture):
    with torch.no_grad():
        features = encoder(encoder.preprocessing([picture]))[0].double().numpy()
    return np.concatenate([features.mean(0), features.std(0, ddof=1)])


def test_the_distance_by_hand(encoder, known, files):
    step = len(files) // SCENES
    fitted = np.stack([summary(encoder, as_picture(file)) for file in files[::step][::2]])
    picture = as_picture(files[1])
    scores = (summary(encoder, picture) - fitted.mean(0)) / np.maximum(fitted.std(0, ddof=1), 1e-6)
    expected = np.sqrt((scores**2).mean()) / known.limit
    assert float(known.distances([picture])[0]) == pytest.approx(expected, rel=1e-4)


def test_few_of_the_other_scenes_are_flagged(known, files):
    measured = set(files[:: len(files) // SCENES])
    others = [as_picture(file) for file in files if file not in measured][:160]
    assert len(others) == 160
    # One in a hundred is expected of 160; more than ten would be a chance of about 1 in 100,000.
    assert int(known.unfamiliar(others).sum()) <= 10


def test_nothing_is_said_of_other_encoders():
    assert familiarity_of(make_lens().images) is None
    with attach_vision() as lens:
        assert familiarity_of(lens.images) is not None
