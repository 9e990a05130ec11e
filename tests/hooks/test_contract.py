"""The hook contract: functions `(activation, hook)` that can be called on a bare tensor and never change it."""

import pytest
import torch

from lens_multimodal.hooks import (
    Mean,
    Resample,
    ablate,
    ablate_attention,
    ablate_heads,
    ablate_mlp,
    ablate_positions,
    add_vector,
    cut_attention,
    freeze_attention,
    observe,
    patch_neurons,
    patch_resid_pre,
    record,
    scale,
    set_to,
    steer,
    write_vector,
)
from lens_multimodal.model import host
from tests.hooks import reference
from tests.hooks.reference import wrapped

NEURONS = [(1, 4), (1, 9)]
NAMES = [host.resid_pre(1), host.mlp_post(1), host.mlp_out(1), host.attn_out(1), host.head_z(1), host.attn_pattern(1)]
VALUES = "blocks.1.attn.hook_v"


def every_builder(model, run, vector):
    mean = Mean({name: run[name].mean((0, 1)) for name in NAMES})
    return {
        "zero": ablate(NEURONS, model, positions=[1]),
        "mean": ablate(NEURONS, model, to=mean),
        "resample": ablate_heads([(1, 0)], model, to=Resample(run), positions=slice(2, None)),
        "mlp": ablate_mlp(1, model),
        "attention": ablate_attention(1, model, to=mean, positions=range(2, 4)),
        "positions": ablate_positions([0, 3], model, layer=1),
        "steer": steer(NEURONS, model, amount=1),
        "scale": scale(NEURONS, model, factor=2, positions=[0]),
        "set": set_to(NEURONS, model, value=3),
        "add": add_vector(vector, model, layer=1),
        "write": write_vector(vector, model, layer=1, positions=[5]),
        "neurons": patch_neurons(NEURONS, model, run=run, positions=[2], source_positions=[7]),
        "residual": patch_resid_pre(1, model, run=run),
        "cut": cut_attention(model, queries=slice(4, None), keys=[1, 2], layers=1)[:1],
        "freeze": freeze_attention(model, run=run, layers=1),
    }


def test_editors_return_a_new_tensor_and_leave_what_they_were_given():
    model, prompt = wrapped("llama", "bridge"), reference.tokens()
    names = [*NAMES, VALUES, host.attn_scores(1)]
    seen, run = record(model, prompt, names), record(model, reference.tokens(seed=1), names)
    vector = torch.randn(24, dtype=torch.float64)
    given = {"seen": seen, "run": run, "vector": {"": vector}}
    before = {group: {name: value.clone() for name, value in of.items()} for group, of in given.items()}
    for kind, hooks in every_builder(model, run, vector).items():
        results = [(name, function(seen[name], hook=None)) for name, function in hooks]
        name, result = results[-1]
        assert not torch.equal(result, seen[name]), f"{kind} changed nothing"
        assert result.data_ptr() != seen[name].data_ptr(), f"{kind} returned the tensor it was given"
        assert (result.shape, result.dtype) == (seen[name].shape, seen[name].dtype), kind
        for group, of in given.items():
            assert all(torch.equal(value, before[group][key]) for key, value in of.items()), f"{kind} edited {group}"


def test_observers_return_nothing_and_write_to_the_container_given():
    into = {}
    [(name, function)] = observe([host.mlp_post(1)], into=into)
    assert function(torch.ones(1, 2, 3), hook=None) is None
    assert torch.equal(into[name][0], torch.ones(1, 2, 3))


@pytest.mark.parametrize("layout", ["gpt-j", "llama"])
def test_half_precision_stays_half(layout):
    model, prompt = wrapped(layout, "bridge", torch.bfloat16), reference.tokens()
    run = {name: value.float() for name, value in record(model, reference.tokens(seed=1), NAMES).items()}
    hooks = [pair for hooks in every_builder(model, run, torch.randn(24)).values() for pair in hooks]
    with torch.no_grad(), host.fired_hooks(model, hooks):
        assert host.logits_of(model, prompt).dtype == torch.bfloat16
