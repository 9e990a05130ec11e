"""Curves, histograms and scatters hold the numbers they were given."""

import numpy as np
import pytest
import torch

from lens_multimodal.analysis import bootstrap_interval
from lens_multimodal.views.plots import (
    ablation_bands,
    ablation_curve,
    attribution_scatter,
    estimate_scatter,
    layer_histogram,
)
from tests.lenses import unchecked
from tests.views.plots.figures import found


def test_one_line_for_each_kind():
    figure = ablation_curve([10, 30], {"top": [0.5, 0.2], "random": [1.0, 0.9], "mine": [0.7, 0.6]})
    assert [(t.name, list(t.x), list(t.y)) for t in figure.data] == [
        ("top neurons", [10, 30], [0.5, 0.2]),
        ("random neurons", [10, 30], [1.0, 0.9]),
        ("mine neurons", [10, 30], [0.7, 0.6]),
    ]
    assert len({t.line.color for t in figure.data}) == 3
    with pytest.raises(ValueError, match=r"'top' .* 1 values .* 2 counts"):
        ablation_curve([10, 30], {"top": [0.5]})


def test_bands_are_bootstrap_intervals_around_the_mean():
    shares = np.random.default_rng(0).uniform(0, 1, (9, 2))
    band, line = ablation_bands([10, 30], {"top": shares}, level=0.8, seed=3).data
    intervals = [bootstrap_interval(column, level=0.8, seed=3) for column in shares.T]
    np.testing.assert_allclose(line.y, shares.mean(axis=0))
    assert list(band.y) == [intervals[0].high, intervals[1].high, intervals[1].low, intervals[0].low]
    assert list(band.x) == [10, 30, 30, 10]
    assert band.mode == "lines"
    with pytest.raises(ValueError, match=r"'top' .*\[9, 2\].*count=1\]"):
        unchecked(ablation_bands)([10], {"top": shares})
    with pytest.raises(ValueError, match=r"'top' .*\[1, 2\].*prompt"):
        ablation_bands([10, 30], {"top": shares[:1]})


def test_layer_histogram_counts():
    (bars,) = layer_histogram([0, 2, 2, 2], n_layers=4).data
    assert list(bars.x) == [0, 1, 2, 3]
    assert list(bars.y) == [1, 0, 3, 0]
    with pytest.raises(ValueError, match=r"layers \[4\] .* 4 layers"):
        layer_histogram([0, 4], n_layers=4)


def test_attribution_scatter_spreads_neurons_within_their_layer():
    words, others = attribution_scatter(found(), n_layers=3, d_mlp=40).data
    np.testing.assert_allclose(words.y, [0.5, 0.125])
    np.testing.assert_allclose(others.y, [-0.25])
    np.testing.assert_allclose(words.x, [-0.39, 1.75])
    assert words.text[1] == "layer 2, neuron 7<br>attribution 0.125 logits<br>·sun  ·sea"
    (alone,) = attribution_scatter(found()[["layer", "neuron", "attribution"]], n_layers=3, d_mlp=40).data
    assert len(alone.y) == 3


def test_tables_that_cannot_be_scattered():
    with pytest.raises(ValueError, match=r"attribution; .* layer, neuron$"):
        attribution_scatter(found()[["layer", "neuron"]], n_layers=3, d_mlp=40)
    with pytest.raises(ValueError, match="2 layers of 40 neurons"):
        attribution_scatter(found(), n_layers=2, d_mlp=40)


def test_estimates_against_effects():
    effect, estimate = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0])
    points, diagonal = estimate_scatter(estimate, effect, labels=["a", "b", "c"]).data
    assert list(points.x) == [1, 2, 3]
    assert list(points.y) == [1, 4, 9]
    assert list(points.text) == ["a", "b", "c"]
    assert list(diagonal.x) == list(diagonal.y) == [1, 9]
    assert "1.00" in estimate_scatter(estimate, effect).layout.title.text
    assert "-1.00" in estimate_scatter(-estimate, effect).layout.title.text
    with pytest.raises(ValueError, match="2 estimates, 3 effects"):
        unchecked(estimate_scatter)(estimate[:2], effect)
