"""Decoders whose blocks have no plain MLP are refused, and are unchanged afterwards."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM as CausalLM
from transformers import (
    DeepseekV3Config,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    RwkvConfig,
)

from lens_multimodal import attach_vision
from lens_multimodal.transformer import hooked_transformer
from tests.lenses import encoder, linear
from tests.module_state import assert_as_before, state_of

SIZES = {
    "vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 40, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
BARE = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}

REFUSED: dict[str, tuple[PretrainedConfig, str]] = {
    "Mixtral": (MixtralConfig(**SIZES, num_local_experts=2), "block 0 .* MixtralSparseMoeBlock"),
    "OLMoE": (OlmoeConfig(**SIZES, **EXPERTS), "block 0 .* OlmoeSparseMoeBlock"),
    "Qwen 2 with a shared expert": (
        Qwen2MoeConfig(**SIZES, **EXPERTS, moe_intermediate_size=16, shared_expert_intermediate_size=20),
        "block 0 .* Qwen2MoeSparseMoeBlock",
    ),
    "Qwen 3, experts from the second block on": (
        Qwen3MoeConfig(**SIZES, **EXPERTS, moe_intermediate_size=16, mlp_only_layers=[0], head_dim=12),
        "block 1 .* Qwen3MoeSparseMoeBlock",
    ),
    "DeepSeek 3, experts from the second block on": (
        DeepseekV3Config(
            **SIZES, n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=1, moe_intermediate_size=16,
            first_k_dense_replace=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4,
            v_head_dim=8,
        ),
        "block 1 .* DeepseekV3MoE",
    ),
    "Mamba": (MambaConfig(**BARE, state_size=4), "block 0 .* MambaBlock"),
    "RWKV": (RwkvConfig(**BARE, context_length=32), "block 0 .* RwkvBlock"),
}  # fmt: skip


def parts() -> dict[str, nn.Module]:
    return {"vision": encoder(), "projection": linear()}


@pytest.mark.parametrize("family", REFUSED)
def test_experts_and_state_spaces(family):
    config, named = REFUSED[family]
    torch.manual_seed(0)
    model = CausalLM.from_config(config)
    before = state_of(model)
    with pytest.raises(ValueError, match=named):
        attach_vision(model, **parts(), dtype=torch.bfloat16)
    assert_as_before(model, before)


def test_blocks_with_different_numbers_of_neurons():
    model = CausalLM.from_config(LlamaConfig(**SIZES))
    narrow = type(model.model.layers[1].mlp)(LlamaConfig(**{**SIZES, "intermediate_size": 32}))
    model.model.layers[1].mlp = narrow
    before = state_of(model)
    with pytest.raises(ValueError, match=r"block 1 .* \[24, 32\] .* \[32, 24\], .*d_mlp=40"):
        attach_vision(model, **parts())
    assert_as_before(model, before)


def test_attention_alone():
    sizes = {"d_model": 24, "d_head": 12, "n_heads": 2, "n_layers": 2, "n_ctx": 32, "d_vocab": 97, "attn_only": True}
    if hooked_transformer.is_available():
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        model: nn.Module = HookedTransformer(HookedTransformerConfig(**sizes, normalization_type="LN", device="cpu"))
    else:
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge.sources import boot_native

        model = boot_native(TransformerBridgeConfig(**sizes, act_fn="relu", architecture="TransformerLensNative"))
    before = state_of(model)
    with pytest.raises(ValueError, match=r"block 0 .* without"):
        attach_vision(model, **parts())
    assert_as_before(model, before)


@pytest.mark.skipif(not hooked_transformer.is_available(), reason="TransformerLens 4 has no HookedTransformer")
def test_experts_of_a_hooked_transformer():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    model = HookedTransformer(
        HookedTransformerConfig(
            d_model=24, d_head=12, n_heads=2, n_layers=2, n_ctx=32, d_vocab=97, act_fn="relu", d_mlp=40,
            num_experts=2, experts_per_token=1, normalization_type="LN", device="cpu",
        )
    )  # fmt: skip
    before = state_of(model)
    with pytest.raises(ValueError, match=r"block 0 .* MoE "):
        attach_vision(model, **parts())
    assert_as_before(model, before)
