"""The picture in grey with heat in colour."""

import numpy as np
import pytest
import torch

from lens_multimodal.views.plots import heat_over_picture
from tests.views.plots.figures import HEIGHT, WIDTH, picture


def test_cold_and_unseen_pixels_stay_grey_and_hot_ones_do_not():
    heat = torch.zeros(HEIGHT, WIDTH)
    heat[3, 4] = 1.0
    heat[:, 20:] = torch.nan
    result = np.asarray(heat_over_picture(picture(), heat, opacity=1.0)).astype(int)
    grey = np.asarray(picture().convert("L")).astype(int)
    is_grey = (result == grey[..., None]).all(axis=-1)
    assert not is_grey[3, 4]
    assert is_grey.sum() == HEIGHT * WIDTH - 1


def test_a_heat_map_of_another_size():
    with pytest.raises(ValueError, match=r"heat map .*\[30, 20\].*\[20, 30\]"):
        heat_over_picture(picture(), torch.zeros(WIDTH, HEIGHT))
