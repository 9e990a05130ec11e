"""The start-up check finds hook points whose edits have no effect, and those that do not run."""

import pytest
import torch

from lens_multimodal import attach_vision, transformer
from lens_multimodal.prompt.virtual_tokens import attached_to
from lens_multimodal.transformer.self_check import HookHasNoEffect, edited, read_only, self_check
from tests.lenses import each_case, encoder, hugging_face, linear
from tests.models import MODEL_CLASSES, wrapped_model


@each_case
def test_every_hook_point_in_use_is_felt(lens_of, layout, kind):
    model = lens_of(layout, kind).model
    names = edited(model)
    assert len(names) == 1 + 3 * 7
    self_check(model)
    tokens = torch.arange(1, 5)[None]
    with torch.no_grad():
        plain = transformer.logits_of(model, tokens)
        for name in names:  # each one alone, by really editing it

            def push(activation, hook):
                return activation + torch.linspace(0, 1, activation.numel()).reshape(activation.shape)

            with transformer.fired_hooks(model, [(name, push)]):
                assert (transformer.logits_of(model, tokens) - plain).abs().max() > 1e-4, name
        assert torch.equal(transformer.logits_of(model, tokens), plain)


def test_deaf_hook_points_are_named(lens_of):
    """TransformerLens runs Hugging Face's attention of GPT-J and shows the pattern afterwards."""
    for layout in ("gpt-j", "opt"):
        model = lens_of(layout, "bridge").model
        with pytest.raises(HookHasNoEffect, match=r"blocks\.1\.attn\.hook_pattern of TransformerBridge"):
            self_check(model, [transformer.attn_pattern(1)])
        with pytest.raises(HookHasNoEffect, match=r"blocks\.1\.attn\.hook_pattern of"):
            self_check(model, [transformer.mlp_post(0), transformer.attn_pattern(1), transformer.resid_post(2)])
    for layout in ("gpt-2", "llama"):
        self_check(lens_of(layout, "bridge").model, [transformer.attn_pattern(1)])


def test_missing_and_silent_hook_points_are_named(lens_of):
    for kind in MODEL_CLASSES:
        model = lens_of("gpt-j", kind).model
        with pytest.raises(ValueError, match=r"'blocks\.0\.hook_nothing'"):
            self_check(model, ["blocks.0.hook_nothing"])
        silent = "blocks.1.attn.hook_rot_q"
        if kind != "hooked" and silent in model.hook_dict:
            with pytest.raises(transformer.HookDidNotFire, match=silent):
                self_check(model, [silent])


def test_a_model_that_fails_the_check_gets_no_lens(monkeypatch):
    model = wrapped_model("bridge", hugging_face("gpt-j"))
    monkeypatch.setattr("lens_multimodal.transformer.self_check.edited", lambda _model: [transformer.attn_pattern(0)])
    with pytest.raises(HookHasNoEffect):
        attach_vision(model, vision=encoder(), projection=linear())
    assert attached_to(transformer.embedding_module(model)) is None


@pytest.mark.parametrize("kind", MODEL_CLASSES)
@pytest.mark.parametrize("frozen", [True, False])
def test_the_model_is_left_as_it_was(kind, frozen):
    model = wrapped_model(kind, hugging_face("gpt-j")).requires_grad_(not frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with torch.inference_mode():
        self_check(model)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad is not frozen for p in model.parameters())


def test_patterns_are_only_read(lens_of):
    model = lens_of("gpt-j", "bridge").model
    assert read_only(model) == [transformer.attn_pattern(layer) for layer in range(3)]
    assert not set(read_only(model)) & set(edited(model))
