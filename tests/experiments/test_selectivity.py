"""Receptive fields recomputed by NumPy: activations, upsampling, threshold, overlap."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lens_multimodal.experiments.selectivity import MEAN_MAP, Selectivity, SelectivitySettings
from lens_multimodal.image.layout import ImageLayout
from tests.experiments.planted import World
from tests.experiments.reference import bilinear, overlap

SETTINGS = SelectivitySettings(n_neurons=3)


@pytest.fixture(scope="module")
def rows(world):
    return world.rows(Selectivity(), SETTINGS)


@pytest.fixture(scope="module")
def maps(world, plain) -> np.ndarray:
    """Plain activations, `[layer, grid_h, grid_w, d_mlp]`."""
    embeds = plain.embeds(plain.vectors(world.scenes[0].path), plain.words("A picture of")["input_ids"])
    return plain.activations(embeds)[:, :9].reshape(3, 3, 3, -1)


def red_square() -> np.ndarray:
    mask = np.zeros((48, 48), dtype=bool)
    mask[16:32, 16:32] = True
    return mask


def assert_plain_overlap(iou: float, values: np.ndarray) -> None:
    """The scene is symmetric: pixels that tie at the threshold but for rounding may be in the field or out of it."""
    heat, square = bilinear(values, 48, 48), red_square()
    threshold = np.quantile(heat, 0.95)
    tied = np.isclose(heat, threshold, rtol=1e-5, atol=1e-7)
    certain = (heat > threshold) & ~tied
    lowest, highest = (overlap(certain | tied & side, square) for side in (~square, square))
    assert highest - lowest < 0.05
    assert lowest - 1e-6 <= iou <= highest + 1e-6


def test_every_overlap_is_the_plain_one(rows, maps):
    fields = rows["fields"]
    assert (fields["share_of_objects"] == 1.0).all(), "the dog is alone"
    for kind in ("top", "random"):
        own = fields[fields["neurons"] == kind]
        single = own[own["unit"] == "neuron"]
        assert 1 <= len(single) <= 3
        for row in single.itertuples():
            assert_plain_overlap(row.iou, maps[row.layer, :, :, row.neuron])
        mean = np.mean([maps[r.layer, :, :, r.neuron] for r in single.itertuples()], axis=0)
        assert_plain_overlap(own[own["unit"] == "mean"]["iou"].iloc[0], mean)


def test_maps_are_the_plain_activations(rows, maps):
    table = rows["maps"]
    assert table["neuron"].iloc[0] == MEAN_MAP
    for row in table.iloc[1:].itertuples():
        np.testing.assert_allclose(row.activation, maps[row.layer, :, :, row.neuron].ravel(), rtol=1e-5, atol=1e-9)
        assert ImageLayout.from_json(row.layout).only_grid.indices == tuple(range(9))


def test_a_noun_that_is_not_annotated_has_maps_and_no_overlap(world):
    bare = replace(world.scenes[0], objects=())
    other = World(lens=world.lens, plain=world.plain, scenes=[bare, *world.scenes[1:], world.scenes[0]])
    picture = other.picture(0)
    found = Selectivity().rows(other.context(picture, SETTINGS))
    assert len(found["fields"]) == 0
    assert found["maps"]["iou"].isna().all()


@pytest.mark.parametrize(("top", "random", "said"), [(0.4, 0.1, "overlap it MORE"), (0.2, 0.2, "is NOT established")])
def test_the_verdict_follows_the_numbers(top, random, said):
    noise = np.random.default_rng(1).normal(0, 0.02, (2, 15))
    rows = pd.DataFrame(
        [
            {
                "image_id": i, "noun": "dog", "category": ("dog", "cat")[i % 2], "supercategory": "animal",
                "object_share": 0.1, "share_of_objects": 1.0 if i < 12 else 0.4, "unit": unit, "neurons": kind,
                "layer": i % 3, "neuron": 4, "rank": 0,
                "iou": mean + e, "inside": 1.0,
            }
            for unit in ("mean", "neuron")
            for kind, mean, errors in (("top", top, noise[0]), ("random", random, noise[1]))
            for i, e in enumerate(errors)
        ]
    )  # fmt: skip
    found = Selectivity().summarise({"fields": rows, "maps": pd.DataFrame({"image_id": []})}, seed=0)
    assert said in found["overlap"].verdict
    assert set(found) == {"overlap", "overlap by category", "across pictures"}
    assert found["across pictures"].frame["pictures"].iloc[0] == 3
    assert found["overlap"].n_pictures == 15
    assert found["overlap by category"].n_pictures == 12, "in three pictures another category takes more room"
    assert "mean of the neurons" in set(found["overlap"].frame["receptive_field_of"])
    alone = rows[rows["image_id"] < 2]
    few = Selectivity().summarise({"fields": alone, "maps": pd.DataFrame({"image_id": []})}, seed=0)
    assert few["overlap"].verdict.startswith("No verdict: 2 ")
    assert "across pictures" not in few, "no category is in two pictures"


def test_invalid_settings_are_refused():
    with pytest.raises(ValueError, match=r"quantile=2\.0"):
        SelectivitySettings(quantile=2.0)
