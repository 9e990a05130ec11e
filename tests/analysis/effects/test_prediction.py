import math

import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.analysis import (
    Case,
    LogitDifference,
    bootstrap_interval,
    effect_of,
    effects_against_random,
    effects_over,
    summary_against_random,
)
from lens_multimodal.analysis.effects.against_random import trials
from lens_multimodal.hooks import Mean, Resample, Zero, ablate, ablate_mlp, scale
from tests.hooks import reference
from tests.hooks.reference import CASES, input_edited, put, wrapped

cases = pytest.mark.parametrize(("layout", "kind"), CASES)
NEURONS = [(0, 3), (1, 7), (1, 8), (2, 20)]


def zeroed(layout):
    return [
        input_edited(reference.mlp_down(layout, layer), put((..., neurons), 0.0))
        for layer, neurons in ((0, [3]), (1, [7, 8]), (2, [20]))
    ]


@cases
def test_effect_equals_numbers_worked_out_from_hugging_face_logits(layout, kind):
    model, prompt, target = wrapped(layout, kind), reference.tokens(), torch.tensor([11, 60])
    effect = effect_of(model, prompt, ablate(model, NEURONS), target)
    before = reference.logits(layout, prompt)[:, -1]
    after = reference.logits(layout, prompt, *zeroed(layout))[:, -1]
    for row, token in enumerate(target.tolist()):
        p, q = before[row].softmax(-1), after[row].softmax(-1)
        expected = {
            "logit_change": after[row, token] - before[row, token],
            "probability_change": q[token] - p[token],
            "relative_probability_change": q[token] / p[token] - 1,
            "kl": torch.distributions.kl_divergence(*[torch.distributions.Categorical(probs=x) for x in (p, q)]),
        }
        for name, value in expected.items():
            assert float(getattr(effect, name)[row]) == pytest.approx(float(value), abs=2e-5), name
        assert effect.rank_before[row] == (-before[row]).argsort().tolist().index(token)
        assert effect.rank_after[row] == (-after[row]).argsort().tolist().index(token)
        assert effect.top_before[row] == before[row].argmax()
        assert effect.top_after[row] == after[row].argmax()
    assert (effect.kl > 1e-4).all()


def test_an_intervention_that_changes_nothing_has_no_effect():
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens()
    effect = effect_of(model, prompt, scale(model, NEURONS, factor=1.0), 5)
    assert effect.kl.tolist() == [0, 0]
    assert effect.logit_change.tolist() == effect.probability_change.tolist() == [0, 0]
    assert torch.equal(effect.rank_before, effect.rank_after)
    table = effect.table()
    assert table.token.tolist() == [5, 5]
    assert list(table.columns)[-1] == "kl"


def test_left_padding_and_half_precision():
    model, short = wrapped("gpt-j", "bridge", torch.float32), reference.tokens(batch=1, pos=7)
    padded = torch.cat([torch.full((1, 2), 3), short], dim=1)
    both = torch.cat([padded, reference.tokens(seed=4, batch=1)])
    mask = torch.ones_like(both)
    mask[0, :2] = 0
    hooks = ablate(model, NEURONS)
    together = effect_of(model, both, hooks, 5, attention_mask=mask).table()
    alone = pd.concat([effect_of(model, row, hooks, 5).table() for row in (short, both[1:])], ignore_index=True)
    assert together.target.tolist() == [f"logit of token 5 at {pos}" for pos in (8, 8)]
    numbers = together.columns.drop("target")
    pd.testing.assert_frame_equal(together[numbers], alone[numbers], rtol=1e-3, atol=1e-5)
    half = wrapped("gpt-j", "bridge", torch.bfloat16)
    effect = effect_of(half, short, ablate(half, NEURONS), 5)
    assert effect.kl.dtype == effect.probability_before.dtype == torch.float32
    assert effect.kl.item() == pytest.approx(alone.kl[0], rel=0.3)


def test_effects_over_keeps_prompts_and_names_in_order():
    model = wrapped("gpt-j", "bridge")
    prompts = [
        Case(tokens=reference.tokens(seed=seed, batch=1, pos=5 + seed), target=seed, name=f"prompt {seed}")
        for seed in range(3)
    ]
    table = effects_over(model, prompts, lambda case: ablate_mlp(model, 1, positions=[case.target]))
    assert table.name.tolist() == ["prompt 0", "prompt 1", "prompt 2"]
    for case, (_, row) in zip(prompts, table.iterrows(), strict=True):
        effect = effect_of(model, case.tokens, ablate_mlp(model, 1, positions=[case.target]), case.target)
        assert row.kl == float(effect.kl)


def test_against_random_draws_matched_neurons_and_pairs_within_prompts():
    model = wrapped("gpt-j", "bridge")
    prompts = [Case(tokens=reference.tokens(seed=seed, batch=1), target=11, neurons=NEURONS) for seed in range(4)]
    table = effects_against_random(model, prompts, n_random=3, seed=1)
    assert table.groupby("case").chosen.sum().tolist() == [1, 1, 1, 1]
    assert len(table) == 16
    drawn = [
        trial.neurons
        for number in range(4)
        for trial in trials(model, NEURONS, counts=None, n_random=3, seed=1, key=(number,))
        if not trial.chosen
    ]
    assert all(neurons.layer.value_counts().to_dict() == {1: 2, 0: 1, 2: 1} for neurons in drawn)
    assert len({tuple(neurons.neuron) for neurons in drawn}) == 12
    alone = effects_against_random(model, prompts[:1], n_random=3, seed=1)
    pd.testing.assert_frame_equal(alone, table[table.case == 0])

    summary = summary_against_random(table, column="kl")
    by_case = [table[table.case == number] for number in range(4)]
    differences = [rows[rows.chosen].kl.mean() - rows[~rows.chosen].kl.mean() for rows in by_case]
    assert summary.loc["difference", "mean"] == pytest.approx(np.mean(differences))
    assert summary.loc["chosen", "mean"] - summary.loc["random", "mean"] == pytest.approx(np.mean(differences))
    assert (summary.low <= summary["mean"]).all()
    assert (summary["mean"] <= summary.high).all()
    assert summary.n.tolist() == [4, 4, 4]


@cases
def test_every_row_of_a_curve_is_the_effect_of_its_own_hooks(layout, kind):
    """Several counts, targets, positions and draws in shared batches, against one run of ready-made hooks each."""
    model, tokens = wrapped(layout, kind), reference.tokens(batch=1)
    targets = [11, (4, 60), LogitDifference(token=11, other=60)]
    run = {transformer.mlp_post(layer): torch.randn(1, 9, 40, dtype=torch.float64) for layer in range(3)}
    for to in (Zero(), Mean({name: value[0, 0] for name, value in run.items()}), Resample(run)):
        ranked = [(1, 7), (0, 3), (1, 8), (2, 20)]
        case = Case(tokens=tokens, target=targets, neurons=ranked, positions=[1, -2, 4], to=to, name="one", key=("k",))
        table = effects_against_random(model, [case], counts=(1, 3, 9), n_random=2, seed=5, batch_size=4)
        tried = trials(model, ranked, counts=(1, 3, 9), n_random=2, seed=5, key=("k",))
        assert table.n_neurons.tolist() == [n for n in (1, 3) for _ in range(9)]
        for number, trial in enumerate(tried):
            hooks = ablate(model, trial.neurons, to=to, positions=[1, -2, 4])
            expected = effect_of(model, tokens, hooks, targets).table()
            rows = table.iloc[3 * number : 3 * number + 3].reset_index(drop=True)
            pd.testing.assert_frame_equal(rows[expected.columns], expected, rtol=1e-4, atol=1e-6)
            assert rows.chosen.tolist() == [trial.draw == 0] * 3
        assert table.value_change.ne(0).all()
    assert table.value_change.abs().max() > 1e-2


@cases
def test_a_curve_alone_is_one_pass_and_equals_edits_of_the_hugging_face_model(layout, kind):
    model, tokens, passes = wrapped(layout, kind), reference.tokens(batch=1), []
    case = Case(tokens=tokens, target=11, neurons=NEURONS, positions=[2, 5])
    with model.hooks(fwd_hooks=[("unembed.hook_out", lambda value, hook: passes.append(len(value)))]):
        table = effects_against_random(model, [case], counts=(1, 2, 4), n_random=0)
    assert passes == [4]
    assert table.chosen.all()
    assert table.n_neurons.tolist() == [1, 2, 4]
    before = reference.logits(layout, tokens)[0, -1]
    for row, count in enumerate(table.n_neurons):
        edits = [
            input_edited(reference.mlp_down(layout, layer), put((..., [[2], [5]], neuron), 0.0))
            for layer, neuron in NEURONS[:count]
        ]
        after = reference.logits(layout, tokens, *edits)[0, -1]
        assert table.logit_after[row] == pytest.approx(float(after[11]), abs=1e-5)
        change = after.softmax(-1)[11] / before.softmax(-1)[11] - 1
        assert table.relative_probability_change[row] == pytest.approx(float(change), abs=1e-5)
    assert table.logit_change.abs().min() > 1e-4
    with pytest.raises(ValueError, match=r"summary_against_random\(effects=...\): .*n_random"):
        summary_against_random(table)


def test_where_a_layer_is_used_up_a_curve_has_no_control():
    model = wrapped("gpt-j", "bridge")
    ranked = [(1, neuron) for neuron in range(30)]
    case = Case(tokens=reference.tokens(batch=1), target=11, neurons=ranked)
    table = effects_against_random(model, [case], counts=(10, 20, 30), n_random=1)
    assert table.groupby("n_neurons").chosen.count().to_dict() == {10: 2, 20: 2, 30: 1}
    with pytest.raises(ValueError, match="layer 1: 30 of 40"):
        effects_against_random(model, [case], n_random=1)


@cases
def test_targets_in_every_form(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    hooks = ablate(model, NEURONS)
    before = reference.logits(layout, prompt)
    after = reference.logits(layout, prompt, *zeroed(layout))

    def spread(logits):
        return logits[3:].std()

    effect = effect_of(model, prompt, hooks, [(4, 11), LogitDifference(token=11, other=60), spread])
    assert effect.token.tolist() == [11, -1, -1] * 2
    for row in range(2):
        values = [(run[row, 4, 11], run[row, -1, 11] - run[row, -1, 60], spread(run[row])) for run in (before, after)]
        for at in range(3):
            entry = 3 * row + at
            assert float(effect.value_before[entry]) == pytest.approx(float(values[0][at]), abs=2e-5)
            assert float(effect.value_after[entry]) == pytest.approx(float(values[1][at]), abs=2e-5)
            p, q = (run[row, 4 if at == 0 else -1].softmax(-1) for run in (before, after))
            assert float(effect.kl[entry]) == pytest.approx(float((p * (p / q).log()).sum()), abs=2e-5)
        assert float(effect.probability_after[3 * row]) == pytest.approx(float(after[row, 4].softmax(-1)[11]), abs=2e-5)
    assert effect.logit_before.isnan().tolist() == effect.probability_after.isnan().tolist() == [False, True, True] * 2
    assert effect.rank_before.tolist()[1:3] == effect.rank_after.tolist()[1:3] == [-1, -1]
    assert (effect.rank_before[::3] >= 0).all()
    several = effect_of(model, prompt, hooks, [11, 60])
    each = effect_of(model, prompt.repeat_interleave(2, dim=0), hooks, torch.tensor([11, 60, 11, 60]))
    pd.testing.assert_frame_equal(several.table(), each.table(), rtol=1e-4, atol=1e-6)


def test_only_the_positions_that_are_read_are_unembedded():
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens()
    widths = []
    with model.hooks(fwd_hooks=[("unembed.hook_out", lambda value, hook: widths.append(value.shape[1]))]):
        effect_of(model, prompt, ablate(model, NEURONS), [5, (-3, 5)])
    assert widths == [3, 3]


def test_bootstrap_interval_has_its_textbook_width_and_covers_its_mean():
    generator = np.random.default_rng(0)
    values = generator.normal(3.0, 2.0, size=200)
    interval = bootstrap_interval(values, seed=1)
    half_width = 1.96 * values.std() / math.sqrt(200)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.mean == pytest.approx(half_width, rel=0.12)
    assert interval.mean - interval.low == pytest.approx(half_width, rel=0.12)
    assert bootstrap_interval(values, seed=1) == interval
    covered = [
        (i := bootstrap_interval(generator.exponential(size=40), n_resamples=300)).low <= 1 <= i.high
        for _ in range(200)
    ]
    assert 0.85 <= np.mean(covered) <= 1
    one = bootstrap_interval([2.0])
    assert one.mean == 2.0
    assert math.isnan(one.low)


def test_bad_input_is_named():
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens()
    hooks = ablate(model, NEURONS)
    with pytest.raises(ValueError, match=r"^effect_of\(target=...\): .*97.* 97 .*\(0 to 96\)"):
        effect_of(model, prompt, hooks, 97)
    with pytest.raises(ValueError, match=r"^effect_of\(target=...\): .* 2 prompts.* \[3\]"):
        effect_of(model, prompt, hooks, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"^effect_of\(target=...\): position 9 .* 9 positions"):
        effect_of(model, prompt, hooks, (9, 1))
    with pytest.raises(TypeError, match=r"^effect_of\(target=...\): .*True"):
        effect_of(model, prompt, hooks, True)
    with pytest.raises(ValueError, match="no hooks"):
        effect_of(model, prompt, [], 1)
    with pytest.raises(ValueError, match="hook_nowhere"):
        effect_of(model, prompt, [("blocks.0.hook_nowhere", hooks[0][1])], 1)
    with pytest.raises(FloatingPointError, match=r"\b97 logits.*\[8\]"):
        effect_of(model, prompt[:1], scale(model, [(2, 1)], factor=float("inf")), 1)
    with pytest.raises(ValueError, match=r"effects_over\(cases=...\)"):
        effects_over(model, [], lambda _case: hooks)
    with pytest.raises(ValueError, match=r"effects_against_random\(n_random=...\): .* -1"):
        effects_against_random(model, [], n_random=-1)
    with pytest.raises(ValueError, match=r"counts.*\[5, 2\]"):
        effects_against_random(model, [], counts=(5, 2))
    with pytest.raises(ValueError, match="cases"):
        effects_against_random(model, [Case(tokens=prompt[:1], target=1)])
    with pytest.raises(ValueError, match=r"cases.* 9 positions"):
        effects_against_random(model, [Case(tokens=prompt[:1], target=1, neurons=NEURONS, positions=[9])])
    with pytest.raises(ValueError, match="run"):
        effects_against_random(model, [Case(tokens=prompt[:1], target=1, neurons=NEURONS, to=Resample({}))])
    for values, message in (([], "no values"), ([1.0, float("nan")], "1 of 2 values")):
        with pytest.raises(ValueError, match=message):
            bootstrap_interval(values)
    with pytest.raises(ValueError, match=r"level is 95\.0"):
        bootstrap_interval([1.0, 2.0], level=95.0)
