import pytest
import torch

from lens_multimodal.analysis import estimate_attribution
from lens_multimodal.analysis.attribution.memory import saved_bytes
from tests.analysis.reference import each_case, hosted


@each_case
def test_saved_bytes_are_predicted_for_longer_prompts(layout, kind):
    model = hosted(layout, kind)
    counted = saved_bytes(model, 50, layers=range(3))
    assert estimate_attribution(model, 50).saved == pytest.approx(counted, rel=0.01)


def test_neurons_are_among_what_is_saved():
    model = hosted("gpt-j", "bridge")
    assert saved_bytes(model, 10, layers=range(3)) > 3 * 10 * 40 * 8


def test_later_layers_need_less():
    model = hosted("gpt-j", "bridge")
    whole = estimate_attribution(model, 40)
    top = estimate_attribution(model, 40, layers=[2])
    assert top.saved < 0.5 * whole.saved
    assert top.result == whole.result / 3


def test_parts_by_hand():
    model = hosted("gpt-j", "bridge")
    found = estimate_attribution(model, 40, batch=2, n_targets=5, n_positions=30)
    assert found.result == 5 * 3 * 2 * 30 * 40 * 8
    assert found.logits == 2 * 2 * 40 * 97 * 8
    assert found.weights == sum(p.numel() for p in model.parameters()) * 8
    assert found.peak == found.saved + found.result + max(found.logits, found.gradients)
    assert estimate_attribution(model, 40, keeps_all=False).result == 0


def test_probing_leaves_no_trace():
    model = hosted("gpt-j", "bridge")
    estimate_attribution(model, 40)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_pos": 0}, "sizes must be positive"),
        ({"n_pos": 65}, "longer than the model's context of 64"),
        ({"n_pos": 9, "batch": 0}, "sizes must be positive"),
        ({"n_pos": 9, "layers": [3]}, "3 layers"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(ValueError, match=message):
        estimate_attribution(hosted("gpt-j", "bridge"), **settings)
