"""A Hugging Face model computes the same logits inside a bridge, or is refused."""

import pytest
import torch
from torch import nn
from transformers import FalconConfig, FalconForCausalLM, OPTConfig, OPTForCausalLM

from lens_multimodal.transformer.accepted_models import WrongInTransformerLens, wrap
from tests.models import LAYOUTS, random_language_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrapping_keeps_the_logits(layout, dtype):
    language_model = random_language_model(layout, dtype=dtype)
    allowed = 10 * torch.finfo(dtype).eps ** 0.5
    tokens = torch.tensor([[3, 50, 7, 21, 9]])
    with torch.no_grad():
        before = language_model(tokens).logits
        after = wrap(language_model)(tokens)
    assert (after - before).abs().max() < allowed * before.abs().max()


@pytest.mark.parametrize("family", ["falcon-grouped", "opt-post-norm"])
def test_what_transformer_lens_cannot_run_is_refused(family):
    """TransformerLens 3.8 to 4.3 split the heads of grouped Falcon in another order, and expect OPT's final norm."""
    torch.manual_seed(0)
    if family == "falcon-grouped":
        grouped = FalconConfig(
            vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2,
            new_decoder_architecture=True, initializer_range=0.3, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model = FalconForCausalLM(grouped)
    else:
        post_norm = OPTConfig(
            vocab_size=97, hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=2,
            word_embed_proj_dim=24, do_layer_norm_before=False, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model = OPTForCausalLM(post_norm)
    with pytest.raises(WrongInTransformerLens, match=type(model).__name__):
        wrap(model)


def test_a_model_that_continues_otherwise_from_its_cache_is_refused(monkeypatch):
    """TransformerLens 3.8 forgets the positions of MPT after the key-value cache, so that only generation is wrong."""
    from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

    whole = NormalizationBridge.forward

    def weightless_for_one_position(norm, hidden_states, **others):
        if hidden_states.shape[1] > 1:
            return whole(norm, hidden_states, **others)
        return nn.functional.rms_norm(hidden_states, hidden_states.shape[-1:])

    monkeypatch.setattr(NormalizationBridge, "forward", weightless_for_one_position)
    with pytest.raises(WrongInTransformerLens, match=r"LlamaForCausalLM.*cache.* [0-9.e-]+ of"):
        wrap(random_language_model("llama"))


def test_a_model_with_other_logits_inside_is_refused(monkeypatch):
    """Here the bridge's own final norm forgets its weight; in HunYuan, TransformerLens 3.8 forgets a norm."""
    from transformer_lens.model_bridge.generalized_components.normalization import NormalizationBridge

    def weightless(_norm, hidden_states):
        return nn.functional.rms_norm(hidden_states, hidden_states.shape[-1:])

    monkeypatch.setattr(NormalizationBridge, "forward", weightless)
    with pytest.raises(WrongInTransformerLens, match=r"LlamaForCausalLM.* [0-9.e-]+ of"):
        wrap(random_language_model("llama"))
