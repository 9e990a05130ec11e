"""The one module that knows TransformerLens: what it reads off a model is what the weights say."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, OPTConfig, OPTForCausalLM

from lens_multimodal import transformer
from tests.lenses import each_case, hugging_face
from tests.models import D_VOCAB, MODEL_CLASSES, wrapped_model

MLP = {
    "gpt-j": ("transformer.h.{}.mlp.fc_in", "transformer.h.{}.mlp.fc_out"),
    "gpt-2": ("transformer.h.{}.mlp.c_fc", "transformer.h.{}.mlp.c_proj"),
    "pythia": ("gpt_neox.layers.{}.mlp.dense_h_to_4h", "gpt_neox.layers.{}.mlp.dense_4h_to_h"),
    "llama": ("model.layers.{}.mlp.up_proj", "model.layers.{}.mlp.down_proj"),
    "opt": ("model.decoder.layers.{}.fc1", "model.decoder.layers.{}.fc2"),
}


@each_case
def test_sizes_and_weights_are_those_of_the_language_model(lens_of, layout, kind):
    model, plain = lens_of(layout, kind).model, hugging_face(layout)
    assert transformer.shape(model) == transformer.ModelShape(
        n_layers=3, d_model=24, d_mlp=40, d_vocab=D_VOCAB, n_heads=2, d_head=12, n_ctx=64
    )
    assert transformer.shape(model).n_neurons == 120
    assert transformer.is_bridge(model) == (kind != "hooked")
    for layer in range(3):
        for name, found in zip(
            MLP[layout], (transformer.w_in(model, layer), transformer.w_out(model, layer)), strict=True
        ):
            weight = plain.get_submodule(name.format(layer)).weight
            own = weight if layout == "gpt-2" else weight.T
            if layout == "llama" and name.endswith("up_proj"):
                assert found.shape == own.shape
                continue
            assert torch.equal(found, own)
    assert torch.equal(transformer.w_e(model), plain.get_input_embeddings().weight)
    assert torch.equal(transformer.w_u(model), plain.get_output_embeddings().weight.T)
    bias = getattr(plain.get_output_embeddings(), "bias", None)
    assert torch.equal(transformer.b_u(model), torch.zeros(D_VOCAB) if bias is None else bias)
    assert transformer.device(model) == torch.device("cpu")
    assert transformer.weight_processing(model) == "none"
    assert transformer.final_norm(model).centres == (layout != "llama")
    assert transformer.final_norm(model).weight.shape == (24,)
    transformer.check_model(model)
    for layer in (-1, 3):
        with pytest.raises(ValueError, match=rf"layer {layer}\b.* 3 layers"):
            transformer.w_out(model, layer)


@each_case
@torch.no_grad()
def test_reading_out_the_last_residual_stream_gives_the_logits(lens_of, layout, kind):
    model = lens_of(layout, kind).model
    with transformer.capture(model, [transformer.resid_post(2)]) as kept:
        logits = transformer.logits_of(model, torch.arange(3, 12)[None])
    torch.testing.assert_close(
        transformer.unembed(model, kept[transformer.resid_post(2)]), logits, rtol=1e-5, atol=1e-5
    )


@each_case
@torch.no_grad()
def test_logits_from_a_position_are_those_of_the_whole_pass_and_no_others_are_made(lens_of, layout, kind):
    model, tokens = lens_of(layout, kind).model, torch.randint(3, 40, (2, 9))
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    whole, padded = transformer.logits_of(model, tokens), transformer.logits_of(model, tokens, attention_mask=mask)
    unembedded = []
    handle = model.unembed.register_forward_hook(lambda *run: unembedded.append(run[-1].shape[1]))
    for first in (0, 5, 8):
        found = transformer.logits_of(model, tokens, first=first)
        torch.testing.assert_close(found, whole[:, first:], rtol=1e-5, atol=1e-5)
        found = transformer.logits_of(model, tokens, first=first, attention_mask=mask)
        torch.testing.assert_close(found[:, -4:], padded[:, first:][:, -4:], rtol=1e-5, atol=1e-5)
    handle.remove()
    assert unembedded == [9, 9, 4, 4, 1, 1]


def test_processed_weights_are_reported():
    for no_processing, expected in ((True, "none"), (False, "processed")):
        model = wrapped_model("bridge", hugging_face("gpt-j"))
        model.enable_compatibility_mode(no_processing=no_processing)
        assert transformer.weight_processing(model) == expected


def test_names_that_a_model_does_not_have(lens_of):
    for kind in MODEL_CLASSES:
        model = lens_of("gpt-j", kind).model
        transformer.check_hook_names(
            model, [transformer.EMBED, transformer.FINAL_NORM_SCALE, transformer.mlp_pre(2), transformer.attn_scores(0)]
        )
        for name in ("blocks.3.mlp.hook_post", "blocks.0.mlp.hook_pots", "nonsense", ""):
            with pytest.raises(ValueError, match=rf"'{name}'.* 0 to 2\)"):
                transformer.check_hook_names(model, [name])
        with pytest.raises(ValueError, match=r"closest: .*blocks\.0\.mlp\.hook_post"):
            transformer.check_hook_names(model, ["blocks.0.mlp.hook_pots"])


def test_hooks_that_never_run_are_an_error(lens_of):
    for kind in MODEL_CLASSES:
        model = lens_of("gpt-j", kind).model
        silent = "blocks.1.attn.hook_result" if kind == "hooked" else "blocks.1.attn.hook_rot_q"
        if silent in model.hook_dict:
            with (
                pytest.raises(transformer.HookDidNotFire, match=f"{silent} of {type(model).__name__}"),
                transformer.capture(model, [silent]),
            ):
                model(torch.arange(3, 6)[None])
        with (
            pytest.raises(transformer.HookDidNotFire, match=f"{transformer.EMBED} of"),
            transformer.capture(model, [transformer.EMBED]),
        ):
            pass


def test_an_error_within_the_block_is_not_covered_up(lens_of):
    model = lens_of("gpt-j", "bridge").model

    def failing(_activation, hook):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), transformer.fired_hooks(model, [(transformer.mlp_post(0), failing)]):
        model(torch.arange(3, 6)[None])
    seen = []
    with transformer.fired_hooks(model, [(transformer.mlp_post(0), lambda value, hook: seen.append(value.shape))]):
        model(torch.arange(3, 6)[None])
    model(torch.arange(3, 6)[None])
    assert seen == [(1, 3, 40)]


@pytest.mark.parametrize(
    ("installed", "works"),
    [
        ("2.18.0", False), ("3.7.3", False), ("3.8.0", True), ("3.9.0", True), ("3.10.1", True), ("4.3.0", True),
        ("4.0.0rc1", True), ("4.12.0.dev3", True), ("5.0.0", False), ("5.0rc1", False), ("6.1", False),
    ],
)  # fmt: skip
def test_releases(monkeypatch, installed, works):
    monkeypatch.setattr("lens_multimodal.transformer.accepted_models.version", lambda _name: installed)
    if works:
        transformer.check_version()
        return
    message = rf"transformer-lens {installed} is installed; .* at least 3\.8 and less than 5\.0 \(pip install"
    with pytest.raises(RuntimeError, match=message):
        transformer.check_version()


def test_what_is_no_language_model():
    for thing in (nn.Linear(2, 2), BertModel(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1))):
        name = type(thing).__name__
        with pytest.raises(TypeError, match=rf"Hugging Face .* {name}$"):
            transformer.wrap(thing)
        with pytest.raises(TypeError, match=rf"\b{name} .*run_with_cache"):
            transformer.check_model(thing)


def test_embeddings_that_are_projected_are_refused():
    """OPT-350m looks tokens up in another width than its residual stream."""
    config = OPTConfig(
        vocab_size=50, hidden_size=24, word_embed_proj_dim=12, num_hidden_layers=1, num_attention_heads=2, ffn_dim=40,
        max_position_embeddings=16,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"\b12 wide.*d_model=24\b"):
        transformer.wrap(OPTForCausalLM(config).eval())


def test_moving_prints_nothing(capfd):
    for kind in MODEL_CLASSES:
        model = wrapped_model(kind, hugging_face("gpt-j"))
        capfd.readouterr()
        transformer.move(model, device="cpu", dtype=torch.float64)
        assert capfd.readouterr().out == ""
        assert model.cfg.dtype == torch.float64
        assert transformer.w_e(model).dtype == torch.float64


def test_a_tokenizer_made_in_memory_is_left_as_it_is(tokenizers):
    original = tokenizers("gpt-j")
    before = dict(original.init_kwargs)
    copy = transformer.as_loaded(original)
    assert copy.init_kwargs["add_bos_token"]
    assert original.init_kwargs == before
    assert copy(" a dog")["input_ids"] == original(" a dog")["input_ids"]
    assert transformer.as_loaded(None) is None
