"""Bad input across the toolkit: refused before any forward pass, unless only a forward pass can show it."""

from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForCausalLM

from lens_multimodal import transformer
from lens_multimodal.analysis import (
    CaptionToken,
    Logit,
    ablation_effects,
    act_patch_neurons,
    act_patch_resid_pre,
    decode_neurons,
    driving_tokens,
    effect_of,
    faithfulness,
    logit_lens,
    neuron_activations,
    neuron_attribution,
    top_neurons,
)
from lens_multimodal.hooks import ablate, freeze_attention, patch_heads, patch_neurons, patch_resid_pre
from tests.analysis.reference import PROMPT, model_of
from tests.models import LAYOUTS, MODEL_CLASSES, random_language_model, wrapped_model

OTHER = torch.tensor([[12, 41, 8, 91, 32, 65, 6]])
TWICE = [(0, 3), (1, 4), (0, 3)]


@contextmanager
def forward_passes(model):
    """How often the model runs within the block."""
    passes: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        yield passes
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", MODEL_CLASSES)
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: ablation_effects(m, PROMPT, 5, TWICE), "layer 0 neuron 3"),
        (lambda m: faithfulness(m, PROMPT, 5, neurons=TWICE), "layer 0 neuron 3"),
        (lambda m: neuron_activations(m, PROMPT, TWICE), "layer 0 neuron 3"),
        (lambda m: act_patch_neurons(m, PROMPT, OTHER, 5, neurons=TWICE), "layer 0 neuron 3"),
        (lambda m: decode_neurons(m, TWICE), "layer 0 neuron 3"),
        (lambda m: driving_tokens(m, TWICE), "layer 0 neuron 3"),
        (lambda m: ablation_effects(m, PROMPT, 5, []), r"neurons=\.\.\.|neurons: "),
        (lambda m: neuron_activations(m, PROMPT, []), r"neurons=\.\.\.|neurons: "),
        (lambda m: neuron_activations(m, PROMPT, [(0, 1)], [7]), "position 7 .* 7 positions"),
        (lambda m: neuron_attribution(m, PROMPT, 5, [0, 9]), "position 9 .* 7 positions"),
        (lambda m: top_neurons(m, PROMPT, [Logit(token=5), CaptionToken(pos=7)]), "position 7 .* 7 positions"),
        (lambda m: top_neurons(m, PROMPT, 97), "token 97 .* 97 tokens"),
        (lambda m: logit_lens(m, PROMPT, [5, 200]), r"logit_lens\(token=.* token 200 .* 97 tokens"),
        (lambda m: act_patch_resid_pre(m, PROMPT, OTHER, 97), "token 97 .* 97 tokens"),
        (lambda m: act_patch_resid_pre(m, PROMPT, OTHER, 5, layers=[3]), "layer 3 .* 3 layers"),
        (lambda m: effect_of(m, PROMPT, ablate(m, [(0, 1)]), 97), r"effect_of\(target=.* token 97 .* 97 tokens"),
        (lambda m: effect_of(m, PROMPT, [("blocks.7.mlp.hook_post", lambda a, hook: a)], 5), "blocks.7.mlp.hook_post"),
    ],
)
def test_refused_before_any_forward_pass(kind, call, message):
    model = model_of("gpt-j", kind)
    with forward_passes(model) as passes, pytest.raises(ValueError, match=message):
        call(model)
    assert not passes
    with forward_passes(model) as passes:
        neuron_attribution(model, PROMPT, 5)
    assert passes, "the counter must be able to count a run"


@pytest.fixture(scope="module")
def overflowing():
    """GPT-J in float16 whose second MLP writes more than float16 can hold."""
    plain = random_language_model("gpt-j", dtype=torch.float16)
    with torch.no_grad():
        plain.transformer.h[1].mlp.fc_out.weight.mul_(6e4)
    return wrapped_model("bridge", plain)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: neuron_attribution(m, PROMPT, 5),
        lambda m: top_neurons(m, PROMPT, 5, score="local_direct_effect"),
        lambda m: top_neurons(m, PROMPT, 5, score="integrated_gradients"),
        lambda m: ablation_effects(m, PROMPT, 5, [(0, 1)]),
        lambda m: effect_of(m, PROMPT, ablate(m, [(0, 1)]), 5),
        lambda m: logit_lens(m, PROMPT, 5),
        lambda m: act_patch_resid_pre(m, PROMPT, OTHER, 5, layers=[0], positions=[0]),
    ],
)
def test_overflow_in_half_precision_is_never_a_number(overflowing, call):
    with pytest.raises(FloatingPointError, match="float32"):
        call(overflowing)


@pytest.mark.parametrize(
    ("changed", "values"),
    [
        ({"n_layer": 2}, [r"blocks\.2\.hook_resid_pre", r"blocks\.2\.mlp", r"blocks\.2\.attn", r"blocks\.2\.attn"]),
        (
            {"n_embd": 32, "n_inner": 44, "n_head": 4},
            [r"32\].*24\]", r"44\].*40\]", r"4, 8\].*2, 12\]", r"head=2.* 4,"],
        ),
    ],
)
def test_cache_of_another_model_is_refused_when_hooks_are_built(changed, values):
    config = LAYOUTS["gpt-j"].__class__.from_dict({**LAYOUTS["gpt-j"].to_dict(), **changed})
    config._attn_implementation = "eager"
    _, cache = transformer.wrap(AutoModelForCausalLM.from_config(config)).run_with_cache(PROMPT)
    model = model_of("gpt-j", "bridge")
    builds = (
        lambda: patch_resid_pre(model, [1, 2], run=cache, positions=[1]),
        lambda: patch_neurons(model, [(1, 1), (2, 3)], run=cache, positions=[1]),
        lambda: patch_heads(model, [(1, 0), (2, 1)], run=cache, positions=[1]),
        lambda: freeze_attention(model, run=cache, layers=[1, 2]),
    )
    for build, named in zip(builds, values, strict=True):
        with pytest.raises(ValueError, match=named):
            build()
