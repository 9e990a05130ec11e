"""The rates of the warning for unfamiliar pictures."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from lens_multimodal.image.pictures import as_picture
from lens_multimodal.tiny import load_vision, scenes_folder
from lens_multimodal.tiny.familiarity import Familiarity
from recipes.tiny.unfamiliar import crop, row


@pytest.mark.slow
def test_a_row_counts_the_pictures_that_are_called_unfamiliar() -> None:
    known = Familiarity.of_scenes(load_vision())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    noise = [Image.fromarray(own) for own in pixels]
    scene = as_picture(sorted((scenes_folder() / "images").iterdir())[0])
    assert row(known, "mixed", [*noise, scene]).startswith("| mixed | 3 | 66.7% [")


def test_crops_are_squares_inside_the_picture() -> None:
    picture = Image.new("RGB", (60, 100), "red")
    for own in (crop(picture, Random(seed)) for seed in range(50)):
        assert own.width == own.height
        assert 0.3 * 60 - 1 <= own.width <= 0.9 * 60
        assert own.getextrema() == picture.getextrema(), "beyond the edge a crop would be black"
