"""Each score against what it claims to be."""

import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.analysis import (
    Ablation,
    CentredLogit,
    IntegratedGradients,
    LogitDifference,
    LogProbability,
    ablation_effects,
    neuron_attribution,
)
from tests.analysis.reference import PROMPT, each_case, final_norm_of, logits_with, model_of, neuron_readers, plain
from tests.models import MODEL_CLASSES, wrapped_model


@each_case
def test_decoded_is_activation_times_unembedded_row(layout, kind):
    model = model_of(layout, kind)
    found = neuron_attribution(model, PROMPT, [8, LogitDifference(token=8, other=9)], score="activation_x_decoded")
    with torch.no_grad(), transformer.capture(model, [transformer.mlp_post(layer) for layer in range(3)]) as kept:
        transformer.logits_of(model, PROMPT)
    for layer in range(3):
        decoded = transformer.w_out(model, layer) @ transformer.w_u(model)
        activation = kept[transformer.mlp_post(layer)][0]
        torch.testing.assert_close(found[0, layer], activation * decoded[:, 8])
        torch.testing.assert_close(found[1, layer], activation * (decoded[:, 8] - decoded[:, 9]))


@each_case
def test_direct_effects_add_up_to_the_logit(layout, kind):
    """Neurons, plus everything else in the final residual stream, plus the biases, give the logit exactly."""
    model = model_of(layout, kind)
    found = neuron_attribution(model, PROMPT, (4, 8), score="direct_effect")[0]
    names = [
        transformer.resid_post(2),
        transformer.FINAL_NORM_SCALE,
        *(transformer.mlp_post(layer) for layer in range(3)),
    ]
    with torch.no_grad(), transformer.capture(model, names) as kept:
        logits = transformer.logits_of(model, PROMPT)
    rest = kept[transformer.resid_post(2)][0, 4] - sum(
        kept[transformer.mlp_post(layer)][0, 4] @ transformer.w_out(model, layer) for layer in range(3)
    )
    if layout != "llama":
        rest = rest - rest.mean()
    direction = final_norm_of(plain(layout)).weight * transformer.w_u(model)[:, 8]
    others = rest @ direction / kept[transformer.FINAL_NORM_SCALE][0, 4, 0]
    bias = getattr(model.ln_final, "b", None)
    constant = transformer.b_u(model)[8] + (bias @ transformer.w_u(model)[:, 8] if bias is not None else 0)
    torch.testing.assert_close(found.sum() + others + constant, logits[0, 4, 8])
    assert (found[:, [0, 1, 2, 3, 5, 6]] == 0).all()
    assert found[:, 4].abs().max() > 0.01


@each_case
def test_last_layer_direct_effect_is_the_gradient_with_a_fixed_scale(layout, kind):
    """With the final norm's scale held, the logit is linear in the last layer's neurons."""
    model = model_of(layout, kind)
    with torch.no_grad(), transformer.capture(model, [transformer.FINAL_NORM_SCALE, transformer.mlp_post(2)]) as kept:
        clean = transformer.logits_of(model, PROMPT)[0, -1, 8]
    found = neuron_attribution(model, PROMPT, 8, score="direct_effect")[0, 2, 6]
    reader = neuron_readers(plain(layout))[2]
    norm = final_norm_of(plain(layout))
    scale = kept[transformer.FINAL_NORM_SCALE][0, -1, 0]
    for neuron in (3, 25):

        def silence(activation, neuron=neuron):
            activation[0, -1, neuron] = 0
            return activation

        seen = {}
        handle = norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(resid=args[0][0, -1]))
        logits_with(plain(layout), PROMPT, {reader: silence})
        handle.remove()
        resid = seen["resid"].detach()
        if layout != "llama":
            resid = resid - resid.mean()
        weight, bias = norm.weight.detach(), getattr(norm, "bias", None)
        normed = resid / scale * weight + (bias.detach() if bias is not None else 0)
        ablated = normed @ transformer.w_u(model)[:, 8] + transformer.b_u(model)[8]
        torch.testing.assert_close(found[neuron], clean - ablated, rtol=1e-3, atol=1e-6)


def test_local_direct_effect_is_the_direct_effect_on_the_own_position():
    model = model_of("llama", "bridge")
    local = neuron_attribution(model, PROMPT, 8, score="local_direct_effect")[0]
    for pos in range(7):
        own = neuron_attribution(model, PROMPT, (pos, 8), [pos], score="direct_effect")[0]
        torch.testing.assert_close(local[:, pos], own[:, 0])


def test_direct_effect_on_positions_the_target_does_not_read_is_refused():
    with pytest.raises(ValueError, match=r"it reads \[6\].*local_direct_effect"):
        neuron_attribution(model_of("gpt-j", "bridge"), PROMPT, 8, [0, 1], score="direct_effect")


@each_case
def test_integrated_gradients_are_complete(layout, kind):
    """Each layer's attributions add up to the target minus the target with that layer's neurons silent."""
    model = model_of(layout, kind)
    positions = [1, 3, 6]
    score = IntegratedGradients(steps=40, batch_size=40)
    targets = [8, LogProbability(token=8)]
    found = neuron_attribution(model, PROMPT, targets, positions, score=score)
    language_model = plain(layout)
    clean = logits_with(language_model, PROMPT, {})[0, -1]

    def silence(activation):
        activation[:, positions] = 0
        return activation

    for layer, reader in enumerate(neuron_readers(language_model)):
        silent = logits_with(language_model, PROMPT, {reader: silence})[0, -1]
        # Kinks of ReLU downstream (OPT), and float32 inside GPT-J's attention, bound the quadrature's precision.
        tolerance = {"rtol": 2e-2, "atol": 1e-2} if layout == "opt" else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(found[0, layer].sum(), clean[8] - silent[8], **tolerance)
        torch.testing.assert_close(
            found[1, layer].sum(), clean.log_softmax(0)[8] - silent.log_softmax(0)[8], **tolerance
        )


def test_integrated_gradients_do_not_depend_on_the_batch():
    model = model_of("gpt-2", "bridge")
    one = neuron_attribution(model, PROMPT, 8, score=IntegratedGradients(steps=5, batch_size=2))
    other = neuron_attribution(model, PROMPT, 8, score=IntegratedGradients(steps=5, batch_size=5))
    torch.testing.assert_close(one, other)


def test_integrated_gradients_of_a_linear_path_are_activation_x_gradient():
    """Everything after the last layer's neurons is linear but for the norm's scale: freeze that by centring at 0."""
    model = model_of("gpt-j", "bridge")
    exact = neuron_attribution(model, PROMPT, 8, score="direct_effect", layers=[2])
    scale = []

    def hold(activation, hook):
        scale.append(activation)
        return scale[0].expand_as(activation)

    with torch.no_grad(), model.hooks(fwd_hooks=[(transformer.FINAL_NORM_SCALE, hold)]):
        transformer.logits_of(model, PROMPT)
        if not _scale_hook_edits(model):
            pytest.skip("this model computes its norm in one step, so its scale cannot be held fixed")
        integrated = neuron_attribution(model, PROMPT, 8, score="integrated_gradients", layers=[2])
    torch.testing.assert_close(integrated, exact)


def _scale_hook_edits(model):
    with torch.no_grad():
        plain_logits = transformer.logits_of(model, PROMPT)
        with model.hooks(fwd_hooks=[(transformer.FINAL_NORM_SCALE, lambda activation, hook: activation * 2)]):
            return not torch.equal(plain_logits, transformer.logits_of(model, PROMPT))


@pytest.mark.parametrize("settings", [{"steps": 0}, {"batch_size": 0}])
def test_bad_integrated_gradients(settings):
    with pytest.raises(ValueError, match=r"steps and batch_size .*\b0\b"):
        IntegratedGradients(**settings)
    with pytest.raises(ValueError, match=r"^batch_size .* 0$"):
        Ablation(batch_size=0)


@each_case
def test_ablation_equals_editing_the_weights(layout, kind):
    """Silencing a neuron everywhere is the same as removing its row of W_out."""
    model = model_of(layout, kind)
    pairs = [(0, 3), (2, 11), (0, 39)]
    table = ablation_effects(model, PROMPT, [8, (2, 5)], pairs, batch_size=2)
    assert table[["layer", "neuron"]].values.tolist() == [[0, 3], [0, 39], [2, 11]] * 2
    edited = wrapped_model(kind, plain(layout))
    with torch.no_grad():
        clean = transformer.logits_of(edited, PROMPT)[0]
        for row in range(3):
            layer, neuron = int(table["layer"][row]), int(table["neuron"][row])
            weight = transformer.w_out(edited, layer)
            saved = weight[neuron].clone()
            weight[neuron] = 0
            assert (transformer.w_out(edited, layer)[neuron] == 0).all()
            difference = clean - transformer.logits_of(edited, PROMPT)[0]
            weight[neuron] = saved
            assert table["effect"][row] == pytest.approx(float(difference[6, 8]), abs=1e-6)
            assert table["effect"][row + 3] == pytest.approx(float(difference[2, 5]), abs=1e-6)
    assert table["effect"].abs().max() > 0.01


@each_case
def test_ablation_by_position_equals_brute_force(layout, kind):
    found = neuron_attribution(model_of(layout, kind), PROMPT, 8, [6, 2], score="ablation", layers=[1])
    assert found.shape == (1, 1, 2, 40)
    reader = neuron_readers(plain(layout))[1]
    clean = logits_with(plain(layout), PROMPT, {})[0, -1, 8]
    for index, pos in enumerate([6, 2]):
        for neuron in (0, 17, 39):

            def silence(activation, pos=pos, neuron=neuron):
                activation[0, pos, neuron] = 0
                return activation

            silent = logits_with(plain(layout), PROMPT, {reader: silence})[0, -1, 8]
            torch.testing.assert_close(found[0, 0, index, neuron], clean - silent, rtol=1e-4, atol=1e-6)


def test_ablation_effects_at_some_positions_only():
    model = model_of("gpt-j", "bridge")
    at_end = ablation_effects(model, PROMPT, (2, 8), [(0, 3)], [3, 4])
    assert at_end["effect"].tolist() == [0.0]
    assert ablation_effects(model, PROMPT, (2, 8), [(0, 3)], [1])["effect"].abs().min() > 0


@pytest.mark.parametrize("neurons", [[], [(0, 3), (0, 3)], [(3, 0)], [(0, 40)]])
def test_bad_neurons(neurons):
    with pytest.raises(ValueError, match=r"neuron|layer"):
        ablation_effects(model_of("gpt-j", "bridge"), PROMPT, 8, neurons)


@pytest.mark.skipif("hooked" not in MODEL_CLASSES, reason="weight processing at loading is HookedTransformer's")
def test_what_weight_processing_changes():
    """Centring W_U changes the raw logit's gradient and not that of a centred logit; folding changes neither."""
    from lens_multimodal.transformer.hooked_transformer import hooked_gpt_j
    from tests.models import random_language_model

    language_model = random_language_model("gpt-j")
    with torch.no_grad():
        language_model.lm_head.weight += 0.3 * torch.randn(24)
    raw = hooked_gpt_j(language_model)
    processed = hooked_gpt_j(language_model, process_weights=True)
    centred = [neuron_attribution(m, PROMPT, CentredLogit(token=8)) for m in (raw, processed)]
    torch.testing.assert_close(*centred, rtol=1e-3, atol=1e-5)
    logit = [neuron_attribution(m, PROMPT, 8) for m in (raw, processed)]
    assert (logit[0] - logit[1]).abs().max() > 0.05 * logit[0].abs().max()
