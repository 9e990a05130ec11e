"""How a decoder family is described: the class, its configuration, the names of its modules; and sizes that they share.

Module names are those of plain transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from tests.models import D_VOCAB

D_MODEL, D_MLP, N_LAYERS, N_HEADS, D_HEAD = 32, 40, 2, 4, 8


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why `attach_vision` refuses a family, and a part of the error that shows it."""

    why: str
    shown: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """A decoder class with a small configuration."""

    model: str
    """Name of the class in `transformers`."""
    config: str
    """Name of its configuration class."""
    sizes: Mapping[str, Any]
    blocks: str = "model.layers"
    neurons: str = "mlp.down_proj"
    """Within a block: the linear layer that reads the neurons."""
    heads: str = "self_attn.o_proj"
    """Within a block: the linear layer that reads the heads side by side."""
    norm_behind_mlp: str | None = None
    """Within a block: the norm that the MLP's output passes before it is added to the residual stream."""
    final_norm: str = "model.norm"
    logit_multiplier: float = 1.0
    """What the model multiplies its unembedded residual stream by."""
    dtype: torch.dtype = torch.float64
    """float32 where plain transformers cannot run in float64."""
    refused: Refusal | None = None
    refused_by_3: Refusal | None = None
    """With TransformerLens 3 alone."""

    def make_config(self) -> PretrainedConfig:
        config = getattr(transformers, self.config)(**self.sizes)
        config._attn_implementation = "eager"
        return config


IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
NEOX = {
    "vocab_size": D_VOCAB, "hidden_size": D_MODEL, "intermediate_size": D_MLP, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS, "max_position_embeddings": 64, "tie_word_embeddings": False, **IDS,
}  # fmt: skip
LLAMA = {**NEOX, "num_key_value_heads": 2}
HEADS = {**LLAMA, "head_dim": D_HEAD}
GEMMA = {**HEADS, "query_pre_attn_scalar": D_HEAD}
CAPPED = {"final_logit_softcapping": 5.0}
GPT2 = {
    "vocab_size": D_VOCAB, "n_positions": 64, "n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS,
    "n_inner": D_MLP, **IDS,
}  # fmt: skip
FALCON_SIZES = {**NEOX, "ffn_hidden_size": D_MLP, "bias": True, "multi_query": False, "alibi": False}
OPT_SIZES = {
    "vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "ffn_dim": D_MLP,
    "num_attention_heads": N_HEADS, "max_position_embeddings": 64, "word_embed_proj_dim": D_MODEL, **IDS,
}  # fmt: skip
LATENT = {
    **LLAMA, "num_key_value_heads": N_HEADS, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8, "v_head_dim": D_HEAD,
}  # fmt: skip
DEEPSEEK = {
    **LATENT, "n_routed_experts": 4, "n_group": 2, "topk_group": 2, "num_experts_per_tok": 2,
    "moe_intermediate_size": D_MLP,
}  # fmt: skip
EXPERTS = {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": D_MLP}
LINEAR_ATTENTION = {
    **HEADS, "linear_key_head_dim": D_HEAD, "linear_value_head_dim": D_HEAD, "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
GRANITE = {
    **LLAMA, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.3,
    "logits_scaling": 0.4,
}  # fmt: skip


def llama_like(name: str, sizes: Mapping[str, Any] = LLAMA, **parts: Any) -> Family:
    return Family(model=f"{name}ForCausalLM", config=f"{name}Config", sizes=sizes, **parts)


def gpt_like(model: str, config: str, sizes: Mapping[str, Any] = GPT2, **parts: Any) -> Family:
    parts = {"blocks": "transformer.h", "final_norm": "transformer.ln_f", **parts}
    return Family(model=model, config=config, sizes=sizes, **parts)


def with_sizes(family: Family, **sizes: Any) -> Family:
    return replace(family, sizes={**family.sizes, **sizes})


GPT_NEOX = Family(
    model="GPTNeoXForCausalLM", config="GPTNeoXConfig", sizes={**NEOX, "rotary_pct": 0.5}, blocks="gpt_neox.layers",
    neurons="mlp.dense_4h_to_h", heads="attention.dense", final_norm="gpt_neox.final_layer_norm",
)  # fmt: skip
FALCON = gpt_like(
    "FalconForCausalLM", "FalconConfig", FALCON_SIZES, neurons="mlp.dense_4h_to_h", heads="self_attention.dense"
)
OPT = Family(
    model="OPTForCausalLM", config="OPTConfig", sizes=OPT_SIZES, blocks="model.decoder.layers", neurons="fc2",
    heads="self_attn.out_proj", final_norm="model.decoder.final_layer_norm",
)  # fmt: skip
BEHIND = {"norm_behind_mlp": "post_feedforward_layernorm"}
