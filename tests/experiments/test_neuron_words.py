"""Words of neurons that are kept for a whole run."""

import pandas as pd
import pytest

from lens_multimodal.analysis import decode_neurons
from lens_multimodal.analysis.decoding.token_text import rows_of_strings
from lens_multimodal.experiments.shared import neuron_words
from lens_multimodal.experiments.shared.neuron_words import NeuronWords
from lens_multimodal.experiments.shared.nouns import says
from tests.experiments.planted import LAYER, NEURON

NEURONS = pd.DataFrame([(LAYER, NEURON), (0, 39), (2, 5), (0, 3), (LAYER, NEURON), (1, 0)], columns=["layer", "neuron"])


def plainly(model, table):
    decoded = decode_neurons(model, table.drop_duplicates()).set_index(["layer", "neuron"])
    return [decoded.loc[pair] for pair in zip(table["layer"], table["neuron"], strict=True)]


@pytest.mark.parametrize("names", [{"dog"}, {"dog", "cat"}, {"hot dog"}, {"unheard"}, set()])
def test_words_are_those_of_each_neuron_decoded_by_itself(world, names):
    model, rows = world.lens.model, plainly(world.lens.model, NEURONS)
    words = NeuronWords(model=model)
    expected = [any(says(token, names) for token in row["tokens"]) for row in rows]
    assert words.saying(NEURONS, names).tolist() == expected
    assert words.interpretable(NEURONS).tolist() == [bool(row["interpretable"]) for row in rows]
    if names == {"dog"}:
        assert expected[0], "the planted neuron writes it"


def test_a_neuron_is_decoded_once(world, monkeypatch):
    decoded = []

    def noted(model, neurons, **settings):
        decoded.extend(zip(neurons["layer"], neurons["neuron"], strict=True))
        return decode_neurons(model, neurons, **settings)

    monkeypatch.setattr(neuron_words, "decode_neurons", noted)
    words = NeuronWords(model=world.lens.model)
    for start in (0, 2, 0):
        words.saying(NEURONS.iloc[start:], {"dog"})
        words.interpretable(NEURONS.iloc[start : start + 3])
    assert sorted(decoded) == sorted(set(zip(NEURONS["layer"], NEURONS["neuron"], strict=True)))


def test_strings_come_in_rows_of_any_length(world):
    rows = [[5, 6, 5], [], [7], [6]]
    found = rows_of_strings(world.lens.model, rows)
    assert list(map(len, found)) == [3, 0, 1, 1]
    assert found[0][0] == found[0][2]
    assert found[0][1] == found[3][0] != found[2][0]
