import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.analysis.effects.by_row import (
    Replaced,
    batches,
    distinct,
    hooks_by_row,
    logits_by_row,
    replaced_neurons,
)
from lens_multimodal.arguments.positions import read_positions
from lens_multimodal.hooks import Resample
from lens_multimodal.transformer import Passes
from tests.analysis.reference import logits_with, model_of, neuron_readers, plain


def run(hooks, activation):
    [(_, hook)] = hooks
    return hook(activation, hook=None)


def test_the_hook_edits_a_copy_its_own_rows_and_no_generated_token():
    activation = torch.randn(3, 4, 3)
    before = activation.clone()
    without = [{0: torch.tensor([0])}, {0: torch.tensor([2, 1])}, None]
    passes, where = Passes(), read_positions([1, -2])
    hooks = hooks_by_row([replaced_neurons(neurons, where) for neurons in without], passes=passes)
    passes.begin(0, 4)
    assert [name for name, _ in hooks] == [transformer.mlp_post(0)]
    after = run(hooks, activation)
    assert torch.equal(activation, before)
    expected = before.clone()
    expected[0, 1:3, 0] = 0
    expected[1, 1:3, 1:] = 0
    assert torch.equal(after, expected)
    single = torch.randn(3, 1, 3)
    passes.begin(4, 1)
    assert run(hooks, single) is single


def test_positions_with_an_open_end_include_generated_tokens():
    where = read_positions(slice(2, None))
    passes = Passes()
    hooks = hooks_by_row([replaced_neurons({0: torch.tensor([1])}, where), []], passes=passes)
    prompt, generated = torch.randn(2, 4, 3), torch.randn(2, 1, 3)
    after = run(hooks, prompt)
    assert (after[0, 2:, 1] == 0).all()
    assert torch.equal(after[0, :2], prompt[0, :2])
    assert torch.equal(after[1], prompt[1])
    passes.begin(4, 1)
    after = run(hooks, generated)
    assert after[0, 0, 1] == 0
    assert torch.equal(after[1], generated[1])


def test_rows_take_whole_activations_and_heads_of_another_run():
    activation, other = torch.randn(4, 5, 2, 3), torch.randn(1, 5, 2, 3)
    name, at, both = "blocks.0.attn.hook_z", read_positions(3), read_positions([4, 0])
    rows = [
        [Replaced(name=name, positions=at)],
        [Replaced(name=name, positions=at, units=torch.tensor([1]))],
        [Replaced(name=name, positions=both), Replaced(name=name, positions=at, units=torch.tensor([0]))],
        [],
    ]
    after = run(hooks_by_row(rows, passes=Passes(), to=Resample({name: other})), activation)
    expected = activation.clone()
    expected[0, 3] = other[0, 3]
    expected[1, 3, 1] = other[0, 3, 1]
    expected[2, [0, 4]] = other[0, [0, 4]]
    expected[2, 3, 0] = other[0, 3, 0]
    assert torch.equal(after, expected)


def test_rows_are_equal_if_they_replace_the_same_units_in_any_order():
    where, elsewhere = read_positions([1]), read_positions([2])
    rows = [
        [],
        *(replaced_neurons(neurons, where) for neurons in ({0: torch.tensor([2, 1])}, {0: torch.tensor([1, 2])}, None)),
        replaced_neurons({1: torch.tensor([1, 2])}, where),
        replaced_neurons({0: torch.tensor([1, 2])}, elsewhere),
        [Replaced(name=transformer.mlp_post(0), positions=where)],
        replaced_neurons({1: torch.tensor([2, 1])}, where),
    ]
    different, index = distinct(rows)
    assert index == [0, 1, 1, 0, 2, 3, 4, 2]
    assert different == [rows[i] for i in (0, 1, 4, 5, 6)]


@pytest.mark.parametrize(
    ("n_rows", "most", "sizes"), [(0, 4, []), (1, 4, [1]), (4, 4, [4]), (5, 4, [2, 3]), (11, 2, [1, 2, 2, 2, 2, 2])]
)
def test_batches_are_few_and_even(n_rows, most, sizes):
    rows = list(range(n_rows))
    found = [rows[batch] for batch in batches(n_rows, most)]
    assert [row for batch in found for row in batch] == rows
    assert [len(batch) for batch in found] == sizes


def test_rows_have_their_own_numbers_in_any_batch(monkeypatch):
    """Seven rows in batches of at most three."""
    model = model_of("gpt-j", "bridge")
    tokens = torch.randint(0, 60, (7, 9), generator=torch.Generator().manual_seed(3))
    neurons = [
        None,
        *({layer: torch.tensor([unit])} for layer, unit in ((0, 3), (1, 5), (2, 7), (0, 9), (1, 2), (2, 4))),
    ]
    rows, sizes = [replaced_neurons(own, read_positions([1, 4])) for own in neurons], []
    run_pass = transformer.logits_of

    def counted(model, tokens, **settings):
        sizes.append(len(tokens))
        return run_pass(model, tokens, **settings)

    monkeypatch.setattr(transformer, "logits_of", counted)
    parts = []
    for part in logits_by_row(model, tokens, rows, batch_size=3, first=8):
        assert torch.is_grad_enabled(), "the caller's setting between two batches"
        parts.append(part)
    found = torch.cat(parts)[:, 0]
    assert sizes == [2, 2, 3]
    for row, own in enumerate(neurons):
        edits = {}
        for layer, units in (own or {}).items():

            def silence(activation, units=units):
                activation[0, [1, 4], units] = 0
                return activation

            edits[neuron_readers(plain("gpt-j"))[layer]] = silence
        expected = logits_with(plain("gpt-j"), tokens[row : row + 1], edits)[0, -1]
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_no_batch_is_larger_than_a_cache_holds_or_smaller_than_a_product_needs():
    model = model_of("gpt-j", "bridge")
    width = transformer.shape(model).d_mlp * transformer.w_out(model, 0).element_size()
    assert transformer.rows_at_once(model, 40, most=10_000) == 2 * 2**20 // (40 * width)
    assert transformer.rows_at_once(model, 40, most=5) == 5
    assert transformer.rows_at_once(model, 10**6, most=5) == 1


def test_neurons_of_a_table_keep_their_order_within_a_layer():
    table = pd.DataFrame({"layer": [2, 0, 2], "neuron": np.array([7, 1, 3], dtype=np.int32)})
    found = replaced_neurons(table, read_positions([1]))
    assert [(part.name, part.units.tolist()) for part in found] == [
        (transformer.mlp_post(0), [1]),
        (transformer.mlp_post(2), [7, 3]),
    ]
