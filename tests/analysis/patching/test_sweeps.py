from functools import partial

import numpy as np
import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.analysis.patching import sweeps
from lens_multimodal.arguments.targets import CaptionToken, Logit, LogitDifference
from tests.hooks import reference
from tests.hooks.reference import CASES, assert_close, input_edited, output_edited, put, wrapped
from tests.lenses import unchecked
from tests.models import MODEL_CLASSES, wrapped_model

cases = pytest.mark.parametrize(("layout", "kind"), CASES)
CLEAN, CORRUPTED = reference.tokens(seed=0, batch=1, pos=6), reference.tokens(seed=1, batch=1, pos=6)
TARGET = LogitDifference(token=11, other=60)
NEURONS = [(0, 3), (2, 9), (0, 5)]


def difference(layout, *edits):
    logits = reference.logits(layout, CORRUPTED, *edits)[0, -1]
    return logits[11] - logits[60]


def outputs_of(layout, module):
    seen = []
    reference.logits(layout, CLEAN, output_edited(module, lambda value: seen.append(value) or value))
    return seen[0]


@cases
def test_every_cell_equals_an_explicit_loop_of_pytorch_hooks(layout, kind):
    model = wrapped(layout, kind)
    d_head = transformer.shape(model).d_head
    for sweep, module_of, edited in (
        (sweeps.act_patch_resid_pre, reference.block, input_edited),
        (sweeps.act_patch_mlp_out, reference.mlp_down, output_edited),
        (sweeps.act_patch_attn_out, reference.attention_out, output_edited),
    ):
        result = sweep(model, CLEAN, CORRUPTED, TARGET, batch_size=7)
        assert list(result.axes) == ["layer", "pos"]
        for layer in range(3):
            module = module_of(layout, layer)
            clean = (
                reference.inputs_of(layout, CLEAN, [module])[0]
                if edited is input_edited
                else outputs_of(layout, module)
            )
            loop = torch.stack([difference(layout, edited(module, put((0, p), clean[0, p]))) for p in range(6)])
            assert_close(result.patched[layer], loop)

    heads = sweeps.act_patch_heads_by_position(
        model, CLEAN, CORRUPTED, TARGET, layers=[0, 2], positions=[1, 4], batch_size=5
    )
    assert heads.axes == {"layer": [0, 2], "head": [0, 1], "pos": [1, 4]}
    neurons = sweeps.act_patch_neurons_by_position(model, CLEAN, CORRUPTED, TARGET, neurons=NEURONS, positions=[1, 4])
    assert neurons.axes == {"neuron": NEURONS, "pos": [1, 4]}
    for i, p in enumerate([1, 4]):
        for row, layer in enumerate([0, 2]):
            module = reference.attention_out(layout, layer)
            [clean] = reference.inputs_of(layout, CLEAN, [module])
            where = (0, p, slice(d_head, 2 * d_head))
            expected = difference(layout, input_edited(module, put(where, clean[where])))
            assert_close(heads.patched[row, 1, i], expected)
        for row, (layer, neuron) in enumerate(neurons.axes["neuron"]):
            module = reference.mlp_down(layout, layer)
            [clean] = reference.inputs_of(layout, CLEAN, [module])
            expected = difference(layout, input_edited(module, put((0, p, neuron), clean[0, p, neuron])))
            assert_close(neurons.patched[row, i], expected)


@cases
def test_positions_patched_together(layout, kind):
    model, where = wrapped(layout, kind), [0, 2, 3]
    result = sweeps.act_patch_neurons(model, CLEAN, CORRUPTED, TARGET, neurons=NEURONS, positions=where, batch_size=2)
    for row, (layer, neuron) in enumerate(result.axes["neuron"]):
        module = reference.mlp_down(layout, layer)
        [clean] = reference.inputs_of(layout, CLEAN, [module])
        edit = put((slice(None), where, neuron), clean[:, where, neuron])
        assert_close(result.patched[row], difference(layout, input_edited(module, edit)))
    heads = sweeps.act_patch_heads(model, CLEAN, CORRUPTED, TARGET, layers=1)
    assert heads.patched.shape == (1, 2)
    by_position = sweeps.act_patch_heads_by_position(model, CLEAN, CORRUPTED, TARGET, layers=1)
    torch.testing.assert_close(by_position.estimate.sum(-1), heads.estimate)


@cases
def test_estimate_is_the_slope_of_the_effect(layout, kind):
    """Finite differences on Hugging Face modules: a small step from the corrupted towards the clean activation."""
    model, step = wrapped(layout, kind), 1e-3
    estimates = sweeps.attribution_patch(
        model, CLEAN, CORRUPTED, TARGET, [transformer.mlp_post(0), transformer.head_z(1), transformer.resid_pre(2)]
    )
    modules = [reference.mlp_down(layout, 0), reference.attention_out(layout, 1), reference.block(layout, 2)]
    for estimate, module in zip(estimates.values(), modules, strict=True):
        [clean], [corrupted] = (reference.inputs_of(layout, prompt, [module]) for prompt in (CLEAN, CORRUPTED))
        flat = estimate.flatten(1)
        for p, unit in ((0, 3), (3, 17), (5, 9)):
            towards = (clean - corrupted)[0, p, unit]

            def value(share, module=module, at=corrupted, p=p, unit=unit, towards=towards):
                return difference(layout, input_edited(module, put((0, p, unit), at[0, p, unit] + share * towards)))

            slope = (value(step) - value(-step)) / (2 * step)
            torch.testing.assert_close(flat[p, unit], slope, rtol=5e-3, atol=5e-4)


def test_a_run_patched_into_itself_and_cells_that_cannot_matter_have_no_effect():
    model = wrapped("gpt-j", "bridge")
    itself = sweeps.act_patch_resid_pre(model, CLEAN, CLEAN, TARGET)
    assert itself.effect.abs().max() < 1e-12
    assert itself.estimate.abs().max() == 0
    early = sweeps.act_patch_mlp_out(model, CLEAN, CORRUPTED, Logit(token=11, pos=2))
    assert early.effect[:, 3:].abs().max() < 1e-12
    assert early.estimate[:, 3:].abs().max() == 0
    assert early.effect[0, :3].abs().min() > 1e-6
    assert early.effect[2, :2].abs().max() < 1e-12  # no attention comes after the last MLP


def test_patching_all_of_the_last_residual_recovers_the_clean_run():
    model, same_end = wrapped("llama", "bridge"), CORRUPTED.clone()
    same_end[0, 1] = CLEAN[0, 1] + 1
    result = sweeps.act_patch_resid_pre(model, CORRUPTED, same_end, TARGET)
    assert result.recovered[0, 1] == pytest.approx(1.0, abs=1e-9)
    assert result.recovered[0, [0, 2, 3, 4, 5]].abs().max() < 1e-9


def test_batch_size_does_not_matter_and_correlations_are_those_of_the_table():
    model = wrapped("gpt-2", "bridge")
    results = [sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, batch_size=size) for size in (1, 5, 64)]
    for result in results[1:]:
        torch.testing.assert_close(result.patched, results[0].patched, rtol=0, atol=1e-10)
    table = results[0].table()
    assert list(table.columns) == ["layer", "pos", "patched", "effect", "recovered", "estimate"]
    assert len(table) == 18
    row = table[(table.layer == 1) & (table.pos == 4)].iloc[0]
    assert row.effect == pytest.approx(float(results[0].effect[1, 4]))
    assert results[0].correlation == pytest.approx(np.corrcoef(table.effect, table.estimate)[0, 1])
    ranks = [table[name].rank() for name in ("effect", "estimate")]
    assert results[0].rank_correlation == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_frozen_weights_no_grad_and_left_over_hooks():
    model = wrapped("gpt-j", "bridge", torch.float32).requires_grad_(False)
    with torch.no_grad():
        result = sweeps.act_patch_heads(model, CLEAN, CORRUPTED, 11)
    assert result.estimate.abs().max() > 0
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    model.requires_grad_(True)
    sweeps.act_patch_heads(model, CLEAN, CORRUPTED, 11)
    assert all(parameter.grad is None for parameter in model.parameters())


@cases
def test_prompts_of_unequal_length_are_matched_by_listed_positions(layout, kind):
    model = wrapped(layout, kind)
    longer = reference.tokens(seed=2, batch=1, pos=9)
    result = sweeps.act_patch_resid_pre(
        model, longer, CORRUPTED, TARGET, layers=[1, 2], positions=[4, 0, 2], source_positions=[8, 3, 1]
    )
    assert result.axes == {"layer": [1, 2], "pos": [0, 2, 4]}
    logits = reference.logits(layout, longer)[0, -1]
    assert result.clean == pytest.approx(float(logits[11] - logits[60]), abs=2e-5)
    for row, layer in enumerate([1, 2]):
        module = reference.block(layout, layer)
        [clean] = reference.inputs_of(layout, longer, [module])
        for column, (to, take) in enumerate([(0, 3), (2, 1), (4, 8)]):
            expected = difference(layout, input_edited(module, put((0, to), clean[0, take])))
            assert_close(result.patched[row, column], expected)
    estimate = sweeps.attribution_patch(
        model, longer, CORRUPTED, TARGET, [transformer.resid_pre(1)], positions=[4, 0, 2], source_positions=[8, 3, 1]
    )[transformer.resid_pre(1)]
    torch.testing.assert_close(estimate[[0, 2, 4]].sum(-1), result.estimate[0])
    assert estimate[[1, 3, 5]].isnan().all()


@cases
def test_left_padding_counts_as_nothing(layout, kind):
    model = wrapped(layout, kind)

    def padded(prompt, n):
        mask = torch.cat([torch.zeros(1, n, dtype=torch.long), torch.ones_like(prompt)], dim=1)
        return torch.cat([torch.full((1, n), 3), prompt], dim=1), mask

    shorter = CLEAN[:, 2:]
    (clean, clean_mask), (corrupted, corrupted_mask) = padded(shorter, 3), padded(CORRUPTED, 1)
    masks = {"clean_mask": clean_mask, "corrupted_mask": corrupted_mask}
    result = sweeps.act_patch_mlp_out(model, clean, corrupted, LogitDifference(token=11, other=60, pos=5), **masks)
    bare = sweeps.act_patch_mlp_out(
        model,
        shorter,
        CORRUPTED,
        LogitDifference(token=11, other=60, pos=-2),
        positions=range(2, 6),
        source_positions=range(4),
    )
    assert result.axes["pos"] == [3, 4, 5, 6]
    assert bare.axes["pos"] == [2, 3, 4, 5]
    for name in ("patched", "estimate"):
        torch.testing.assert_close(getattr(result, name), getattr(bare, name), rtol=0, atol=1e-12)
    assert (result.clean, result.corrupted) == (bare.clean, bare.corrupted)
    assert result.effect[:2].abs().max() > 1e-2
    unmasked = sweeps.act_patch_mlp_out(model, clean, corrupted, LogitDifference(token=11, other=60, pos=5))
    assert abs(unmasked.clean - result.clean) > 1e-3


def test_targets_of_all_logits_and_targets_in_the_padding():
    model = wrapped("gpt-j", "bridge")
    n_padded = 2
    padded = torch.cat([torch.full((1, n_padded), 3), CORRUPTED], dim=1)
    clean = torch.cat([torch.full((1, n_padded), 3), CLEAN], dim=1)
    mask = torch.ones_like(padded)
    mask[0, :n_padded] = 0
    masks = {"clean_mask": mask, "corrupted_mask": mask}
    bare = sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, lambda logits: logits[-3:].std(), layers=1)
    result = sweeps.act_patch_resid_pre(model, clean, padded, lambda logits: logits[-3:].std(), layers=1, **masks)
    torch.testing.assert_close(result.patched, bare.patched)
    torch.testing.assert_close(result.estimate, bare.estimate)
    assert (result.clean, result.corrupted) == (bare.clean, bare.corrupted)
    with pytest.raises(ValueError, match=r"act_patch_resid_pre\(target=...\): .* 2 positions"):
        sweeps.act_patch_resid_pre(model, clean, padded, (1, 11), layers=1, **masks)


SWEEPS = [
    sweeps.act_patch_resid_pre, sweeps.act_patch_mlp_out, sweeps.act_patch_attn_out, sweeps.act_patch_heads,
    sweeps.act_patch_heads_by_position,
    partial(sweeps.act_patch_neurons, neurons=NEURONS), partial(sweeps.act_patch_neurons_by_position, neurons=NEURONS),
]  # fmt: skip


@pytest.mark.parametrize("kind", MODEL_CLASSES)
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_sweep_works_in_every_mode(kind, frozen, mode):
    model = wrapped_model(kind, reference.hugging_face("gpt-j")).requires_grad_(not frozen)
    names = [transformer.mlp_post(0), transformer.resid_pre(2)]
    expected = [sweep(model, CLEAN, CORRUPTED, TARGET) for sweep in SWEEPS]
    whole = sweeps.attribution_patch(model, CLEAN, CORRUPTED, TARGET, names)
    with mode():
        clean, corrupted = CLEAN + 0, CORRUPTED + 0
        for sweep, other in zip(SWEEPS, expected, strict=True):
            result = sweep(model, clean, corrupted, TARGET)
            torch.testing.assert_close(result.patched + 0, other.patched)
            torch.testing.assert_close(result.estimate + 0, other.estimate)
            assert result.estimate.abs().max() > 0
            assert not result.estimate.requires_grad
        for name, value in sweeps.attribution_patch(model, clean, corrupted, TARGET, names).items():
            torch.testing.assert_close(value + 0, whole[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="inference_mode"), torch.inference_mode():
        sweeps.act_patch_heads(wrapped_model(kind, reference.hugging_face("gpt-j")), CLEAN, CORRUPTED, TARGET)


def test_bad_input_is_named():
    model = wrapped("gpt-j", "bridge")
    with pytest.raises(ValueError, match=r"clean_tokens.*\[2, 6\]"):
        unchecked(sweeps.attribution_patch)(model, torch.cat([CLEAN, CLEAN]), CORRUPTED, 11, [transformer.resid_pre(0)])
    with pytest.raises(ValueError, match=r"positions.* 6 and 5 .*range\(6 - n, 6\)"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED[:, :5], 11)
    with pytest.raises(ValueError, match=r"\(source_positions=...\): .* 3 positions.* 2"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, positions=[1, 2, 3], source_positions=[1, 2])
    with pytest.raises(ValueError, match=r"\(source_positions=...\): .* 2"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, source_positions=[1, 2])
    with pytest.raises(ValueError, match=r"\(source_positions=...\): .* 6 "):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, positions=[1], source_positions=[6])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    with pytest.raises(ValueError, match=r"\[1\] are padding"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, positions=[1, 4], clean_mask=mask)
    with pytest.raises(ValueError, match=r"corrupted_mask.*\[1, 1"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, corrupted_mask=1 - mask)
    with pytest.raises(ValueError, match=r"clean_mask.*\[1, 5\].*\[1, 6\]"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, clean_mask=mask[:, 1:])
    with pytest.raises(ValueError, match=r"\(target=...\): .*caption token"):
        sweeps.act_patch_resid_pre(
            model, CLEAN, CORRUPTED[:, :5], CaptionToken(pos=3), positions=[1, 2], source_positions=[1, 2]
        )
    with pytest.raises(ValueError, match=r"target.* 2"):
        unchecked(sweeps.attribution_patch)(model, CLEAN, CORRUPTED, [11, 12], [transformer.resid_pre(0)])
    with pytest.raises(TypeError, match="position"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, position=[1])
    with pytest.raises(ValueError, match=r"\(batch_size=...\): .* 0"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, batch_size=0)
    with pytest.raises(ValueError, match="97"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 97)
    with pytest.raises(ValueError, match=r"\(positions=...\): .* 6 "):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, positions=[6])
    with pytest.raises(ValueError, match="positions"):
        sweeps.act_patch_resid_pre(model, CLEAN, CORRUPTED, 11, positions=slice(9, None))
    with pytest.raises(ValueError, match="neuron"):
        sweeps.act_patch_neurons(model, CLEAN, CORRUPTED, 11, neurons=[])
    with pytest.raises(ValueError, match="hook_nowhere"):
        sweeps.attribution_patch(model, CLEAN, CORRUPTED, 11, ["blocks.0.hook_nowhere"])
