import gc
import weakref

import pandas as pd
import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.analysis import (
    SCORES,
    ActivationXGradient,
    IntegratedGradients,
    LogitDifference,
    LogProbability,
    neuron_attribution,
    neuron_attribution_by_row,
    top_neurons,
    top_neurons_by_row,
)
from lens_multimodal.transformer import hooked_transformer
from tests.analysis.reference import (
    PROMPT,
    each_case,
    inputs_and_gradients,
    logits_with,
    model_of,
    neuron_readers,
    plain,
)
from tests.models import MODEL_CLASSES, random_language_model, wrapped_model


def reference(layout, value, tokens=PROMPT, attention_mask=None):
    model = plain(layout)
    kept, gradients = inputs_and_gradients(model, neuron_readers(model), tokens, value, attention_mask)
    return torch.stack([a * g for a, g in zip(kept, gradients, strict=True)], dim=1)


@each_case
def test_equals_plain_transformers_with_pytorch_hooks(layout, kind):
    found = neuron_attribution(model_of(layout, kind), PROMPT, [8, (3, 21), LogProbability(token=8)])
    assert found.shape == (3, 3, 7, 40)
    values = [
        lambda logits: logits[0, -1, 8],
        lambda logits: logits[0, 3, 21],
        lambda logits: logits[0, -1].log_softmax(0)[8],
    ]
    for part, value in zip(found, values, strict=True):
        torch.testing.assert_close(part, reference(layout, value)[0], rtol=1e-5, atol=1e-6)
    assert found.abs().amax(dim=(1, 2, 3)).min() > 0.01


@each_case
def test_equals_finite_differences(layout, kind):
    found = neuron_attribution(model_of(layout, kind), PROMPT, 8)[0]
    model = plain(layout)
    readers = neuron_readers(model)
    step = 1e-2
    for layer in range(3):
        pos, neuron = divmod(int(found[layer].abs().argmax()), 40)

        def moved(sign, layer=layer, pos=pos, neuron=neuron):
            def move(activation):
                activation[0, pos, neuron] *= 1 + sign * step
                return activation

            return logits_with(model, PROMPT, {readers[layer]: move})[0, -1, 8]

        slope = (moved(1) - moved(-1)) / (2 * step)
        torch.testing.assert_close(found[layer, pos, neuron], slope, rtol=5e-3, atol=1e-4)


def test_positions_after_the_target_have_none():
    found = neuron_attribution(model_of("gpt-j", "bridge"), PROMPT, (3, 8))[0]
    assert (found[:, 4:] == 0).all()
    assert (found[:2, :4] != 0).any(dim=-1).all()
    assert (found[2, :3] == 0).all()
    assert (found[2, 3] != 0).any()


@each_case
def test_positions_and_layers_select(layout, kind):
    model = model_of(layout, kind)
    whole = neuron_attribution(model, PROMPT, 8)
    part = neuron_attribution(model, PROMPT, 8, [5, 1], layers=[2, 1])
    torch.testing.assert_close(part, whole[:, 1:][:, :, [5, 1]])


def test_several_targets_equal_one_at_a_time():
    model = model_of("llama", "bridge")
    targets = [8, (2, 4), LogitDifference(token=3, other=90), lambda logits: logits[1].std()]
    together = neuron_attribution(model, PROMPT, targets)
    for found, target in zip(together, targets, strict=True):
        torch.testing.assert_close(found, neuron_attribution(model, PROMPT, target)[0])


def test_one_forward_pass_for_all_targets_and_layers():
    model = model_of("gpt-j", "bridge")
    calls = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda *_, hook: calls.append(hook.name))]):
        neuron_attribution(model, PROMPT, [1, 2, 3])
    assert len(calls) == 1


@pytest.mark.parametrize("kind", MODEL_CLASSES)
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_leaves_no_trace_in_any_mode(kind, frozen, mode):
    model = wrapped_model(kind, plain("gpt-j")).requires_grad_(not frozen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with mode():
        for score in SCORES:
            tokens = torch.cat([PROMPT, PROMPT[:, :1]], dim=1)
            found = neuron_attribution(model, tokens, 8, [7], score=score, layers=2)
            assert not found.requires_grad
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not frozen)
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_model_made_in_inference_mode_is_refused():
    language_model = random_language_model("gpt-j")
    with torch.inference_mode():
        model = wrapped_model("bridge", language_model)
    with pytest.raises(ValueError, match=r"torch\.inference_mode"):
        neuron_attribution(model, PROMPT, 8)


def test_outer_hooks_are_seen():
    model = model_of("gpt-j", "bridge")
    name = transformer.mlp_post(0)

    def silence(activation, hook):
        return activation * 0

    with model.hooks(fwd_hooks=[(name, silence)]):
        found = neuron_attribution(model, PROMPT, 8)
    assert (found[0, 0] == 0).all()
    assert (found[0, 1] != neuron_attribution(model, PROMPT, 8)[0, 1]).any()


@pytest.mark.parametrize("score", sorted(SCORES))
@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_by_row_equals_one_at_a_time(score, kind):
    model = model_of("gpt-j", kind)
    tokens = torch.cat([PROMPT, PROMPT.flip(1)])
    targets = [8, LogitDifference(token=9, other=10)]
    positions = [6]
    together = neuron_attribution_by_row(model, tokens, targets, positions, score=score, layers=[1, 2])
    for row, target in enumerate(targets):
        alone = neuron_attribution(model, tokens[row : row + 1], target, positions, score=score, layers=[1, 2])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-7)


@each_case
def test_left_padding_changes_nothing(layout, kind):
    model = wrapped_model(kind, random_language_model(layout))
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), PROMPT], dim=1)
    mask = (torch.arange(9) >= 2).long()[None]
    if (layout, kind) == ("llama", "compat") and hooked_transformer.is_available():
        # TransformerLens 3.9 in compatibility mode gives NaN gradients for rows that attend to nothing.
        with pytest.raises(FloatingPointError, match="padding"):
            neuron_attribution(model, padded, 8, range(2, 9), attention_mask=mask)
        return
    found = neuron_attribution(model, padded, 8, range(2, 9), attention_mask=mask)
    torch.testing.assert_close(found, neuron_attribution(model, PROMPT, 8), rtol=1e-3, atol=1e-5)


def test_offload_equals():
    model = model_of("gpt-j", "bridge")
    found = neuron_attribution(model, PROMPT, 8, score=ActivationXGradient(offload=True))
    torch.testing.assert_close(found, neuron_attribution(model, PROMPT, 8))


@each_case
def test_targets_side_by_side_equal_one_after_the_other(layout, kind):
    model, targets = model_of(layout, kind), [8, (3, 21), LogProbability(token=8), 5, (2, 8)]
    one_by_one = neuron_attribution(model, PROMPT, targets, [4, 1])
    for rows in (2, 5, 9):
        found = neuron_attribution(model, PROMPT, targets, [4, 1], score=ActivationXGradient(rows=rows))
        torch.testing.assert_close(found, one_by_one, rtol=1e-5, atol=1e-6)
    table = top_neurons(model, PROMPT, targets, top_k=6, score=ActivationXGradient(rows=2))
    pd.testing.assert_frame_equal(table, top_neurons(model, PROMPT, targets, top_k=6), rtol=1e-4, atol=1e-6)


def test_side_by_side_runs_one_forward_pass_for_each_group():
    model, seen = model_of("gpt-j", "bridge"), []
    with model.hooks(fwd_hooks=[(transformer.mlp_post(0), lambda value, hook: seen.append(len(value)))]):
        neuron_attribution(model, PROMPT, [8, 21, 5], score=ActivationXGradient(rows=2))
    assert seen == [2, 1]


@pytest.mark.parametrize("rows", [0, -1, True])
def test_invalid_numbers_of_rows_are_refused(rows):
    with pytest.raises(ValueError, match="rows"):
        ActivationXGradient(rows=rows)


def test_half_precision_gives_float32_near_the_truth():
    model = wrapped_model("bridge", random_language_model("gpt-j", dtype=torch.bfloat16))
    found = neuron_attribution(model, PROMPT, 8)
    assert found.dtype == torch.float32
    exact = neuron_attribution(wrapped_model("bridge", plain("gpt-j")), PROMPT, 8)
    assert torch.corrcoef(torch.stack([found.flatten().double(), exact.flatten()]))[0, 1] > 0.99


def test_nothing_is_kept_alive():
    model = model_of("gpt-j", "bridge")
    seen = []

    def watch(activation, hook):
        seen.append(weakref.ref(activation))

    gc.disable()
    try:
        with model.hooks(fwd_hooks=[(transformer.mlp_pre(1), watch)]):
            neuron_attribution(model, PROMPT, [8, 9])
        assert len(seen) == 1
        assert seen[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("score", ["activation_x_gradient", "integrated_gradients", "activation_x_decoded", "ablation"])
def test_overflow_is_an_error(score):
    model = wrapped_model("bridge", plain("gpt-j"))
    with torch.no_grad():
        transformer.w_out(model, 1)[:] = torch.inf
    with pytest.raises(FloatingPointError, match="infinite"):
        neuron_attribution(model, PROMPT, 8, [0], score=score, layers=[1])


def test_overflow_names_the_first_layer():
    model = wrapped_model("bridge", plain("gpt-j"))
    with torch.no_grad():
        transformer.w_out(model, 0)[:] = torch.nan
    with pytest.raises(FloatingPointError, match=r"torch.float64 .*blocks\.1\.mlp"):
        neuron_attribution(model, PROMPT, 8)


def test_infinite_gradient_is_an_error():
    with pytest.raises(FloatingPointError, match=r"gradient .*blocks\.2\.mlp"):
        neuron_attribution(model_of("gpt-j", "bridge"), PROMPT, lambda logits: (logits[-1, 8] * 0).sqrt())


@pytest.mark.parametrize("reduce", ["max", "sum", "mean"])
@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_top_neurons_are_those_of_the_whole_attribution(reduce, kind):
    model = model_of("gpt-j", kind)
    positions = [4, 0, 2]
    table = top_neurons(model, PROMPT, [8, 9], positions, top_k=11, reduce=reduce)
    whole = neuron_attribution(model, PROMPT, [8, 9], positions)
    assert list(table.columns) == ["target", "rank", "layer", "neuron", "attribution", "pos"]
    assert table["rank"].tolist() == [*range(11), *range(11)]
    assert table["target"].tolist() == ["logit of token 8 at 6"] * 11 + ["logit of token 9 at 6"] * 11
    for index, (_, part) in enumerate(table.groupby("target", sort=False)):
        reduced = {"max": whole[index].amax(1), "sum": whole[index].sum(1), "mean": whole[index].mean(1)}[reduce]
        best = reduced.flatten().sort(descending=True)
        assert (part["layer"] * 40 + part["neuron"]).tolist() == best.indices[:11].tolist()
        torch.testing.assert_close(torch.tensor(part["attribution"].to_numpy()), best.values[:11])
        for row in part.itertuples():
            assert row.pos == positions[int(whole[index, row.layer, :, row.neuron].argmax())]
    assert table.attrs == {"score": "activation_x_gradient", "reduce": reduce, "weight_processing": "none"}


def test_more_neurons_than_there_are_gives_all():
    table = top_neurons(model_of("gpt-j", "bridge"), PROMPT, 8, top_k=1000)
    assert len(table) == 120
    assert not table.duplicated(["layer", "neuron"]).any()


def test_top_neurons_by_row_equal_each_row():
    model = model_of("gpt-2", "bridge")
    tokens = torch.cat([PROMPT, PROMPT.flip(1)])
    table = top_neurons_by_row(model, tokens, [8, 9], top_k=5)
    for row, target in enumerate([8, 9]):
        alone = top_neurons(model, tokens[row : row + 1], target, top_k=5)
        part = table[table["row"] == row].drop(columns="row").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, alone)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"score": "gradient"}, ValueError, "'gradient'.* activation_x_gradient"),
        ({"score": IntegratedGradients}, TypeError, "IntegratedGradients'>"),
        ({"layers": [3]}, ValueError, "3 layers"),
        ({"layers": []}, ValueError, "layer"),
        ({"layers": [1, 1]}, ValueError, "layers"),
        ({"positions": [7]}, ValueError, "position 7"),
        ({"positions": []}, ValueError, "position"),
        ({"target": 97}, ValueError, "vocabulary of 97"),
        ({"attention_mask": torch.ones(1, 6)}, ValueError, r"attention_mask .*\[1, 6\]"),
    ],
)
def test_bad_arguments_are_refused_before_any_forward_pass(settings, error, message):
    model = model_of("gpt-j", "bridge")
    calls = []
    arguments = {"tokens": PROMPT, "target": 8, **settings}
    with model.hooks(fwd_hooks=[("hook_embed", lambda *_, hook: calls.append(hook.name))]):
        for function in (neuron_attribution, top_neurons):
            with pytest.raises(error, match=message):
                function(model, **arguments)
    assert not calls


@pytest.mark.parametrize("settings", [{"reduce": "median"}, {"top_k": 0}, {"top_k": True}])
def test_bad_ranking_arguments(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        top_neurons(model_of("gpt-j", "bridge"), PROMPT, 8, **settings)


def test_prompts_and_targets_must_match():
    model = model_of("gpt-j", "bridge")
    two = PROMPT.repeat(2, 1)
    with pytest.raises(ValueError, match=r"\b2 targets.* 1 targets"):
        neuron_attribution_by_row(model, two, [8])
    with pytest.raises(ValueError, match=r"prompt .*\[1, 0\]"):
        neuron_attribution(model, PROMPT[:, :0], 8)
