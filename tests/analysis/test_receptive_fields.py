import pandas as pd
import pytest
import torch

from lens_multimodal.analysis import (
    ImageGeometry,
    intersection_over_union,
    neuron_activations,
    receptive_field,
)
from lens_multimodal.image.preprocessing import Preprocessing
from tests.analysis.reference import (
    PROMPT,
    each_case,
    inputs_and_gradients,
    model_of,
    neuron_readers,
    plain,
)

GEOMETRY = ImageGeometry.of(Preprocessing(height=64, width=64), width=120, height=80, grid_h=4, grid_w=4)


def test_most_active_twentieth_is_kept():
    activations = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    field = receptive_field(activations, GEOMETRY)
    assert field.mask.float().mean() == pytest.approx(0.05, abs=0.002)
    assert field.heat[field.mask].min() > field.threshold >= field.heat[~field.mask].max()


def test_field_lies_on_the_active_patch():
    activations = torch.zeros(4, 4)
    activations[1, 2] = 3
    mask = receptive_field(activations, GEOMETRY).mask
    assert mask[20:40, 60:90].sum() > 0.95 * mask.sum() > 0


def test_cropped_pixels_are_outside():
    geometry = ImageGeometry.of(
        Preprocessing(height=64, width=64, crop_mode="center"), width=200, height=80, grid_h=4, grid_w=4
    )
    activations = torch.arange(16.0).reshape(4, 4)
    field = receptive_field(activations, geometry, quantile=0.5)
    assert not field.mask[:, :60].any()
    assert not field.mask[:, 140:].any()
    assert field.mask.sum() == pytest.approx(0.5 * 80 * 80, rel=0.02)


def test_constant_activation_has_no_field():
    assert not receptive_field(torch.ones(4, 4), GEOMETRY).mask.any()


def test_intersection_over_union_by_hand():
    mask, seg_mask = torch.zeros(6, 6, dtype=torch.bool), torch.zeros(6, 6, dtype=torch.bool)
    mask[:2, :3] = True
    seg_mask[1:3, :3] = True
    assert intersection_over_union(mask, seg_mask) == pytest.approx(3 / 9)
    assert intersection_over_union(seg_mask, seg_mask) == 1
    assert intersection_over_union(~seg_mask, seg_mask) == 0


@each_case
def test_activations_equal_plain_transformers(layout, kind):
    tokens = torch.cat([PROMPT, PROMPT.flip(1)])
    found = neuron_activations(model_of(layout, kind), tokens, [(2, 3), (0, 5), (2, 1)], [4, 0])
    model = plain(layout)
    kept, _ = inputs_and_gradients(model, neuron_readers(model), tokens, lambda logits: logits.sum())
    expected = torch.stack([kept[2][:, :, 3], kept[0][:, :, 5], kept[2][:, :, 1]], dim=1)[:, :, [4, 0]]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_activations_come_in_the_order_given_whatever_the_form():
    model, pairs = model_of("gpt-j", "bridge"), [(2, 3), (1, 30), (0, 5), (2, 1), (1, 2), (0, 39)]
    one_by_one = [neuron_activations(model, PROMPT, [pair]) for pair in pairs]
    table = pd.DataFrame(pairs, columns=["layer", "neuron"])
    for given in (pairs, table, table.to_numpy()):
        torch.testing.assert_close(neuron_activations(model, PROMPT, given), torch.cat(one_by_one, dim=1))
    by_layer = neuron_activations(model, PROMPT, {2: [3, 1], 0: [39]})
    torch.testing.assert_close(by_layer, torch.cat([one_by_one[i] for i in (0, 3, 5)], dim=1))


def test_bad_input():
    with pytest.raises(ValueError, match=r"receptive_field\(quantile="):
        receptive_field(torch.zeros(4, 4), GEOMETRY, quantile=95)
    with pytest.raises(ValueError, match=r"receptive_field\(activations=.*NaN"):
        receptive_field(torch.full((4, 4), torch.nan), GEOMETRY)
    with pytest.raises(ValueError, match=r"\[4, 4\].* \[3, 4\]"):
        receptive_field(torch.zeros(3, 4), GEOMETRY)
    empty = torch.zeros(6, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(seg_mask="):
        intersection_over_union(empty, empty)
    with pytest.raises(ValueError, match=r"neuron_activations\(neurons="):
        neuron_activations(model_of("gpt-j", "bridge"), PROMPT, [])
