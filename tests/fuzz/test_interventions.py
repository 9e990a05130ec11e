"""Neurons, positions and hooks in any combination, and what is left of the model afterwards."""

import gc
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_multimodal import hooks as builders
from lens_multimodal import transformer
from lens_multimodal.analysis import ablation_effects, decode_neurons, effect_of, neuron_activations, top_neurons
from tests.fuzz import anything
from tests.lenses import picture

replacement = st.sampled_from(["zero", "mean", "resample"])
number = anything.mostly(st.floats(-3, 3), st.floats(), anything.odd)


@pytest.fixture(scope="module")
def prompt(lens):
    return lens.prompt(picture(), " dog cat")


@pytest.fixture(scope="module")
def run(lens, prompt):
    per_layer = (
        transformer.resid_pre,
        transformer.mlp_post,
        transformer.mlp_out,
        transformer.attn_out,
        transformer.head_z,
        transformer.attn_pattern,
    )
    return builders.record(lens.model, prompt.tokens, [name(i) for i in range(3) for name in per_layer])


def replacements(run: dict[str, torch.Tensor]) -> dict[str, Any]:
    means = {name: tensor.mean(dim=(0, 1)) for name, tensor in run.items() if "pattern" not in name}
    return {"zero": builders.Zero(), "mean": builders.Mean(means), "resample": builders.Resample(run)}


@st.composite
def interventions(draw) -> Callable[..., list[transformer.NamedHook]]:
    """A builder of hooks with arguments right and wrong; it takes the model and a recorded run."""
    neurons, heads, layers = draw(anything.neurons), draw(anything.heads), draw(anything.layers)
    where, other, value, to = draw(anything.positions), draw(anything.positions), draw(number), draw(replacement)
    b = builders
    return draw(
        st.sampled_from(
            [
                lambda m, r: b.ablate(m, neurons, to=replacements(r)[to], positions=where),
                lambda m, r: b.ablate_heads(m, heads, to=replacements(r)[to], positions=where),
                lambda m, r: b.ablate_mlp(m, layers, to=replacements(r)[to], positions=where),
                lambda m, r: b.ablate_attention(m, layers, to=replacements(r)[to], positions=where),
                lambda m, _: b.ablate_positions(m, where),
                lambda m, _: b.steer(m, neurons, amount=value, positions=where),
                lambda m, _: b.scale(m, neurons, factor=value, positions=where),
                lambda m, _: b.set_to(m, neurons, value=value, positions=where),
                lambda m, r: b.patch_resid_pre(m, layers, run=r, positions=where, source_positions=other),
                lambda m, r: b.patch_neurons(m, neurons, run=r, positions=where, source_positions=other),
                lambda m, r: b.patch_heads(m, heads, run=r, positions=where, source_positions=other),
                lambda m, _: b.cut_attention(m, queries=where, keys=other, layers=layers),
                lambda m, r: b.freeze_attention(m, run=r, layers=layers),
                lambda m, _: b.add_vector(m, torch.ones(24), layer=layers, positions=where),
            ]
        )
    )


@given(anything.neurons, anything.positions)
def test_neuron_lists(attempt, lens, prompt, neurons, positions):
    model, tokens = lens.model, prompt.tokens
    attempt(lambda: decode_neurons(model, neurons, top_k=2), lens)
    attempt(lambda: neuron_activations(model, tokens, neurons, positions), lens)
    attempt(lambda: ablation_effects(model, tokens, " dog", neurons, positions), lens)
    attempt(lambda: builders.random_neurons_like(model, neurons, torch.Generator()), lens)


@given(st.lists(interventions(), min_size=1, max_size=4))
def test_hooks_in_any_combination(attempt, lens, prompt, run, chosen):
    """Whatever was built and run, the plain logits are bit for bit the same afterwards."""
    plain = lens.logits(prompt)

    def together() -> torch.Tensor:
        hooks = [hook for build in chosen for hook in build(lens.model, run)]
        return effect_of(lens.model, prompt.tokens, hooks, 3).kl

    attempt(together, lens)
    assert torch.equal(lens.logits(prompt), plain)


def test_whole_numbers_of_any_size(lens):
    """Beyond 64 bits a number still steers; beyond any float it is refused before the forward pass."""
    [[_, steered]] = builders.steer(lens.model, [(0, 1)], amount=-(2**63) - 1)
    assert float(steered(torch.zeros(1, 14, 40), hook=None).min()) == -(2.0**63)
    with pytest.raises(ValueError, match=r"steer\(amount=.*1e308"):
        builders.steer(lens.model, [(0, 1)], amount=10**400)


def test_a_table_of_neurons_with_tensors_in_it(lens):
    table = pd.DataFrame([(torch.zeros(0), 1)], columns=["layer", "neuron"])
    with pytest.raises(TypeError, match=r"decode_neurons\(neurons=.*\[0\]"):
        decode_neurons(lens.model, table)


@given(interventions(), st.integers(1, 4))
def test_hooks_while_generating(attempt, lens, prompt, run, build, length):
    plain = lens.logits(prompt)

    def generate() -> list[str]:
        with transformer.fired_hooks(lens.model, build(lens.model, run)):
            return lens.generate(prompt, max_new_tokens=length)

    attempt(generate, lens)
    assert torch.equal(lens.logits(prompt), plain)


@given(
    interventions(),
    st.sampled_from([transformer.resid_pre(1), transformer.mlp_post(2), transformer.attn_out(0), transformer.EMBED]),
)
def test_a_hook_that_fails_half_way(lens, prompt, run, build, where):
    """The user's own error comes through as it is, and nothing stays attached once the hooks themselves are gone."""
    from tests.fuzz.conftest import state_of

    before, plain = state_of(lens), lens.logits(prompt)

    def fail(_activation, hook):
        raise ZeroDivisionError("the user's own mistake")

    def fail_behind_built_hooks() -> None:
        try:
            own = build(lens.model, run)
        except (ValueError, TypeError):
            own = []
        with torch.no_grad(), transformer.fired_hooks(lens.model, [*own, (where, fail)]):
            lens.logits(prompt)

    with pytest.raises((ZeroDivisionError, ValueError, FloatingPointError)):
        fail_behind_built_hooks()
    gc.collect(1)  # the young generations: what this example made
    assert state_of(lens) == before
    assert torch.equal(lens.logits(prompt), plain)


@given(
    target=anything.mostly(
        st.sampled_from([" dog", 5, (3, 7)]), st.integers(-2, 100), st.tuples(anything.position, st.integers(0, 96)),
        anything.texts, anything.odd, st.lists(st.integers(0, 96), max_size=2),
    ),
    positions=anything.positions,
    top_k=anything.mostly(st.integers(1, 200), anything.odd),
    score=anything.mostly(
        st.sampled_from(["activation_x_gradient", "direct_effect", "local_direct_effect", "activation_x_decoded"]),
        anything.odd,
    ),
    reduce=anything.mostly(st.sampled_from(["max", "sum", "mean"]), anything.odd),
    layers=anything.layers,
)  # fmt: skip
def test_attribution(attempt, lens, prompt, target, positions, top_k, score, reduce, layers):
    attempt(
        lambda: top_neurons(
            lens.model, prompt.tokens, target, positions, top_k=top_k, score=score, reduce=reduce, layers=layers
        ),
        lens,
    )


@given(st.lists(st.integers(0, anything.D_VOCAB + 3) | st.integers(0, 2**62), min_size=1, max_size=8))
def test_token_ids_that_stand_for_no_image(lens, ids):
    tokens = torch.tensor([ids])
    if max(ids) < lens.shape.d_vocab:
        assert lens.model(tokens).isfinite().all()
        return
    with pytest.raises(ValueError, match="image"):
        lens.model(tokens)
