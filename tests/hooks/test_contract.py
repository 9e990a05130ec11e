"""The hook contract: functions `(activation, hook)` that can be called on a bare tensor and never change it."""

import pytest
import torch

from lens_multimodal import transformer
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
from tests.hooks import reference
from tests.hooks.reference import wrapped

NEURONS = [(1, 4), (1, 9)]
NAMES = [
    transformer.resid_pre(1),
    transformer.mlp_post(1),
    transformer.mlp_out(1),
    transformer.attn_out(1),
    transformer.head_z(1),
    transformer.attn_pattern(1),
]
VALUES = "blocks.1.attn.hook_v"


def every_builder(model, run, vector):
    mean = Mean({name: run[name].mean((0, 1)) for name in NAMES})
    return {
        "zero": ablate(model, NEURONS, positions=[1]),
        "mean": ablate(model, NEURONS, to=mean),
        "resample": ablate_heads(model, [(1, 0)], to=Resample(run), positions=slice(2, None)),
        "mlp": ablate_mlp(model, 1),
        "attention": ablate_attention(model, 1, to=mean, positions=range(2, 4)),
        "positions": ablate_positions(model, [0, 3], layer=1),
        "steer": steer(model, NEURONS, amount=1),
        "scale": scale(model, NEURONS, factor=2, positions=[0]),
        "set": set_to(model, NEURONS, value=3),
        "add": add_vector(model, vector, layer=1),
        "write": write_vector(model, vector, layer=1, positions=[5]),
        "neurons": patch_neurons(model, NEURONS, run=run, positions=[2], source_positions=[7]),
        "residual": patch_resid_pre(model, 1, run=run),
        "cut": cut_attention(model, queries=slice(4, None), keys=[1, 2], layers=1)[:1],
        "freeze": freeze_attention(model, run=run, layers=1),
    }


def test_editors_return_a_new_tensor_and_leave_what_they_were_given():
    model, prompt = wrapped("llama", "bridge"), reference.tokens()
    names = [*NAMES, VALUES, transformer.attn_scores(1)]
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
    [(name, function)] = observe([transformer.mlp_post(1)], into=into)
    assert function(torch.ones(1, 2, 3), hook=None) is None
    assert torch.equal(into[name][0], torch.ones(1, 2, 3))


@pytest.mark.parametrize("layout", ["gpt-j", "llama"])
def test_half_precision_stays_half(layout):
    model, prompt = wrapped(layout, "bridge", torch.bfloat16), reference.tokens()
    run = {name: value.float() for name, value in record(model, reference.tokens(seed=1), NAMES).items()}
    hooks = [pair for hooks in every_builder(model, run, torch.randn(24)).values() for pair in hooks]
    with torch.no_grad(), transformer.fired_hooks(model, hooks):
        assert transformer.logits_of(model, prompt).dtype == torch.bfloat16
