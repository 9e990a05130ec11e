import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal.arguments.units import read_neuron_pairs
from lens_multimodal.hooks import random_neurons_like, read_heads, read_neurons
from tests.hooks.reference import wrapped


@pytest.fixture
def model():
    return wrapped("gpt-j", "bridge")


def test_table_pairs_and_mapping_mean_the_same(model):
    table = pd.DataFrame({"layer": [2, 0, 2], "neuron": [7, 39, 1], "attribution": [0.3, 0.2, 0.1]})
    pairs = [(2, 7), (0, 39), (2, 1)]
    for given in (table, pairs, torch.tensor(pairs).tolist(), read_neurons(model, pairs)):
        by_layer = read_neurons(model, given)
        assert {layer: units.tolist() for layer, units in by_layer.items()} == {0: [39], 2: [7, 1]}
    for given in (table, pairs, np.array(pairs)):
        assert read_neuron_pairs(model, given) == pairs
    assert read_neuron_pairs(model, {2: [7], 0: 39}) == pairs[:2]


def test_heads_use_their_own_column_and_limit(model):
    assert read_heads(model, pd.DataFrame({"layer": [1], "head": [1]}))[1].tolist() == [1]
    with pytest.raises(ValueError, match=r"head 2 .* 2 heads \(0 to 1\)"):
        read_heads(model, [(0, 2)])


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ([], r"read_neurons\(neurons=.*no neuron"),
        (pd.DataFrame({"layer": [], "neuron": []}), r"read_neurons\(neurons=.*no neuron"),
        ([(1, 4), (0, 4), (1, 4)], r"once: layer 1 neuron 4"),
        ([(3, 0)], r"layer 3 .* 3 layers \(0 to 2\)"),
        ([(0, -1)], r"neuron -1 .* 40 neurons \(0 to 39\)"),
        (pd.DataFrame({"layer": [0], "unit": [1]}), r"\['layer', 'unit'\] .*\['neuron'\]"),
    ],
)
def test_wrong_neurons_are_named(model, neurons, message):
    with pytest.raises(ValueError, match=message):
        read_neurons(model, neurons)


@pytest.mark.parametrize(
    ("neurons", "named"),
    [("(0, 1)", r"'\(0, 1\)'"), ([3, 4], " 3 among"), ([(0, 1.5)], r"1\.5"), ([(True, 1)], "True")],
)
def test_wrong_kinds_are_named(model, neurons, named):
    with pytest.raises(TypeError, match=named):
        read_neurons(model, neurons)


def test_random_control_matches_layer_by_layer_and_shares_nothing(model):
    given = [(0, 1), (0, 2), (2, 5)]
    control = random_neurons_like(model, given, torch.Generator().manual_seed(0))
    assert control.layer.value_counts().to_dict() == {0: 2, 2: 1}
    assert not set(zip(control.layer, control.neuron, strict=True)) & set(given)
    again = random_neurons_like(model, given, torch.Generator().manual_seed(0))
    pd.testing.assert_frame_equal(control, again)
    other = random_neurons_like(model, given, torch.Generator().manual_seed(1))
    assert not control.equals(other)


def test_random_control_needs_enough_other_neurons(model):
    with pytest.raises(ValueError, match=r"layer 1: 21 of 40 neurons .* 19 "):
        random_neurons_like(model, [(1, k) for k in range(21)], torch.Generator())
