import math

import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal.analysis.effects import (
    Case,
    bootstrap_interval,
    effect_of,
    effects_against_random,
    effects_over,
    summary_against_random,
)
from lens_multimodal.hooks import ablate, ablate_mlp, scale
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
    assert table.target.tolist() == [5, 5]
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
    pd.testing.assert_frame_equal(together, alone, rtol=1e-3, atol=1e-5)
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
    prompts = [Case(tokens=reference.tokens(seed=seed, batch=1), target=11) for seed in range(4)]
    seen = []

    def intervene(neurons, _case):
        seen.append(neurons)
        return ablate(model, neurons)

    table = effects_against_random(model, prompts, lambda _case: NEURONS, intervene, n_random=3, seed=1)
    assert table.groupby("case").chosen.sum().tolist() == [1, 1, 1, 1]
    assert len(table) == 16
    drawn = [neurons for neurons in seen if neurons is not NEURONS]
    assert all(neurons.layer.value_counts().to_dict() == {1: 2, 0: 1, 2: 1} for neurons in drawn)
    assert len({tuple(neurons.neuron) for neurons in drawn}) == 12
    alone = effects_against_random(model, prompts[:1], lambda _case: NEURONS, intervene, n_random=3, seed=1)
    pd.testing.assert_frame_equal(alone, table[table.case == 0])

    summary = summary_against_random(table, column="kl")
    by_case = [table[table.case == number] for number in range(4)]
    differences = [rows[rows.chosen].kl.mean() - rows[~rows.chosen].kl.mean() for rows in by_case]
    assert summary.loc["difference", "mean"] == pytest.approx(np.mean(differences))
    assert summary.loc["chosen", "mean"] - summary.loc["random", "mean"] == pytest.approx(np.mean(differences))
    assert (summary.low <= summary["mean"]).all()
    assert (summary["mean"] <= summary.high).all()
    assert summary.n.tolist() == [4, 4, 4]


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
    with pytest.raises(ValueError, match=r"target 97 is outside the vocabulary of 97 \(0 to 96\)"):
        effect_of(model, prompt, hooks, 97)
    with pytest.raises(ValueError, match=r"one target or one for each of 2 prompts, got shape \[3\]"):
        effect_of(model, prompt, hooks, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="read_pos 9 is outside a prompt of 9 positions"):
        effect_of(model, prompt, hooks, 1, read_pos=9)
    with pytest.raises(ValueError, match="there is no intervention to measure"):
        effect_of(model, prompt, [], 1)
    with pytest.raises(ValueError, match="no hook point"):
        effect_of(model, prompt, [("blocks.0.hook_nowhere", hooks[0][1])], 1)
    with pytest.raises(FloatingPointError, match="97 logits at position -1 are not finite with the intervention"):
        effect_of(model, prompt[:1], scale(model, [(2, 1)], factor=float("inf")), 1)
    with pytest.raises(ValueError, match="no prompts"):
        effects_over(model, [], lambda _case: hooks)
    with pytest.raises(ValueError, match="at least one random draw"):
        effects_against_random(model, [], lambda _case: NEURONS, lambda _neurons, _case: hooks, n_random=0)
    for values, message in (([], "no values"), ([1.0, float("nan")], "1 of 2 values are not finite")):
        with pytest.raises(ValueError, match=message):
            bootstrap_interval(values)
    with pytest.raises(ValueError, match=r"level is 95\.0"):
        bootstrap_interval([1.0, 2.0], level=95.0)
