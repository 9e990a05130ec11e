"""Decoder families of transformers, as small as they can be: the class, its configuration, the names of its modules.

One line per family, or per layout where one class has several. Module names are those of plain transformers. A family
that cannot be right is expected to be refused, with words that name the reason.
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
    refused: str | None = None
    """Words of the error with which `attach_vision` refuses it; None if it works."""
    refused_by_3: str | None = None
    """The same for TransformerLens 3 alone."""

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
FALCON = {**NEOX, "ffn_hidden_size": D_MLP, "bias": True, "multi_query": False, "alibi": False}
OPT = {
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


def _llama_like(name: str, sizes: Mapping[str, Any] = LLAMA, **parts: Any) -> Family:
    return Family(model=f"{name}ForCausalLM", config=f"{name}Config", sizes=sizes, **parts)


def _gpt_like(model: str, config: str, sizes: Mapping[str, Any] = GPT2, **parts: Any) -> Family:
    parts = {"blocks": "transformer.h", "final_norm": "transformer.ln_f", **parts}
    return Family(model=model, config=config, sizes=sizes, **parts)


_NEOX = Family(
    model="GPTNeoXForCausalLM", config="GPTNeoXConfig", sizes={**NEOX, "rotary_pct": 0.5}, blocks="gpt_neox.layers",
    neurons="mlp.dense_4h_to_h", heads="attention.dense", final_norm="gpt_neox.final_layer_norm",
)  # fmt: skip
_FALCON = _gpt_like(
    "FalconForCausalLM", "FalconConfig", FALCON, neurons="mlp.dense_4h_to_h", heads="self_attention.dense"
)
_OPT = Family(
    model="OPTForCausalLM", config="OPTConfig", sizes=OPT, blocks="model.decoder.layers", neurons="fc2",
    heads="self_attn.out_proj", final_norm="model.decoder.final_layer_norm",
)  # fmt: skip
_BEHIND = {"norm_behind_mlp": "post_feedforward_layernorm"}
_NO_MLP = {"refused": "MLP", "dtype": torch.float32}
_NO_ADAPTER = {"refused": "TransformerLens"}


def _with(family: Family, **sizes: Any) -> Family:
    return replace(family, sizes={**family.sizes, **sizes})


FAMILIES: dict[str, Family] = {
    # RMSNorm, rotary positions, attention and MLP one after the other.
    "llama": _llama_like("Llama"),
    "llama, all biases": _llama_like("Llama", {**LLAMA, "mlp_bias": True, "attention_bias": True}),
    "llama, tied embeddings": _llama_like("Llama", {**LLAMA, "tie_word_embeddings": True}),
    "mistral": _llama_like("Mistral", HEADS),
    "ministral 3": _llama_like("Ministral3", HEADS),
    "qwen 2": _llama_like("Qwen2"),
    "qwen 3": _llama_like("Qwen3", HEADS),
    "smollm 3": _llama_like("SmolLM3"),
    "ernie 4.5": _llama_like("Ernie4_5", {**HEADS, "use_bias": True}),
    "seed-oss": _llama_like("SeedOss", HEADS),
    "arcee": _llama_like("Arcee"),
    "apertus": _llama_like("Apertus"),
    "hunyuan": _llama_like("HunYuanDenseV1", HEADS, refused_by_3="logits"),
    "phi 3": _llama_like("Phi3"),
    "olmo": _llama_like("Olmo"),
    "glm": _llama_like("Glm", HEADS),
    "jais 2": _llama_like("Jais2", HEADS),
    "bitnet": _llama_like("BitNet", HEADS),
    "deepseek v3, dense": _llama_like("DeepseekV3", {**DEEPSEEK, "first_k_dense_replace": N_LAYERS}, refused="heads"),
    "youtu": _llama_like("Youtu", LATENT, refused="heads"),
    # Multipliers and caps of logits, multipliers of the residual stream.
    "granite": _llama_like("Granite", GRANITE, logit_multiplier=1 / 0.4, refused_by_3="hook"),
    "cohere": _llama_like("Cohere", {**LLAMA, "logit_scale": 2.5}, logit_multiplier=2.5),
    "cohere 2": _llama_like("Cohere2", {**LLAMA, "logit_scale": 2.5}, logit_multiplier=2.5),
    "nanochat": _llama_like("NanoChat", {**HEADS, **CAPPED}, neurons="mlp.fc2"),
    # RMSNorm by 1 + weight; norms behind attention and MLP.
    "gemma": _llama_like("Gemma", HEADS),
    "gemma 2": _llama_like("Gemma2", {**GEMMA, **CAPPED}, **_BEHIND),
    "gemma 3": Family(model="Gemma3ForCausalLM", config="Gemma3TextConfig", sizes=GEMMA, **_BEHIND),
    "vaultgemma": _llama_like("VaultGemma", {**GEMMA, **CAPPED}),
    "glm 4": _llama_like("Glm4", HEADS, norm_behind_mlp="post_mlp_layernorm"),
    "olmo 2": _llama_like("Olmo2", **_BEHIND),
    "olmo 3": _llama_like("Olmo3", **_BEHIND),
    "exaone 4": _llama_like("Exaone4", **_BEHIND),
    # LayerNorm.
    "stablelm": _llama_like("StableLm"),
    "nemotron": _llama_like("Nemotron"),
    "starcoder 2": _llama_like("Starcoder2", neurons="mlp.c_proj"),
    "gpt-2": _gpt_like("GPT2LMHeadModel", "GPT2Config", neurons="mlp.c_proj", heads="attn.c_proj"),
    "gpt-neo": _gpt_like(
        "GPTNeoForCausalLM", "GPTNeoConfig",
        {"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_layers": N_LAYERS, "num_heads": N_HEADS,
         "intermediate_size": D_MLP, "max_position_embeddings": 64, "window_size": 4,
         "attention_types": [[["global", "local"], 1]], **IDS},
        neurons="mlp.c_proj", heads="attn.attention.out_proj",
    ),
    "gpt-bigcode": _gpt_like(
        "GPTBigCodeForCausalLM", "GPTBigCodeConfig", {**GPT2, "multi_query": True},
        neurons="mlp.c_proj", heads="attn.c_proj",
    ),
    "mpt": _gpt_like(
        "MptForCausalLM", "MptConfig",
        {"vocab_size": D_VOCAB, "d_model": D_MODEL, "n_layers": N_LAYERS, "n_heads": N_HEADS,
         "expansion_ratio": 2, "max_seq_len": 64, **IDS},
        blocks="transformer.blocks", neurons="ffn.down_proj", heads="attn.out_proj", final_norm="transformer.norm_f",
    ),
    "bloom": _gpt_like(
        "BloomForCausalLM", "BloomConfig",
        {"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS, **IDS},
        neurons="mlp.dense_4h_to_h", heads="self_attention.dense",
    ),
    "opt": _OPT,
    "xglm": Family(
        model="XGLMForCausalLM", config="XGLMConfig", dtype=torch.float32,
        sizes={"vocab_size": D_VOCAB, "d_model": D_MODEL, "num_layers": N_LAYERS, "ffn_dim": D_MLP,
               "attention_heads": N_HEADS, "max_position_embeddings": 64, **IDS, "pad_token_id": 1},
        neurons="fc2", heads="self_attn.out_proj", final_norm="model.layer_norm",
    ),
    # Attention and MLP side by side.
    "gpt-j": _gpt_like(
        "GPTJForCausalLM", "GPTJConfig", {**GPT2, "rotary_dim": 4, "tie_word_embeddings": False},
        neurons="mlp.fc_out", heads="attn.out_proj",
    ),
    "codegen": _gpt_like(
        "CodeGenForCausalLM", "CodeGenConfig", {**GPT2, "rotary_dim": 4, "tie_word_embeddings": False},
        neurons="mlp.fc_out", heads="attn.out_proj",
    ),
    "gpt-neox": _NEOX,
    "gpt-neox, sequential": _with(_NEOX, use_parallel_residual=False),
    "phi": _llama_like("Phi", neurons="mlp.fc2", heads="self_attn.dense", final_norm="model.final_layernorm"),
    "stablelm, parallel": _llama_like("StableLm", {**LLAMA, "use_parallel_residual": True}),
    "falcon": _with(_FALCON, multi_query=True),
    "falcon, all heads": _FALCON,
    "falcon, alibi": _with(_FALCON, alibi=True, parallel_attn=False),
    # Refused: the residual stream itself is normalised in each block.
    "opt, norms behind": replace(_with(_OPT, do_layer_norm_before=False), final_norm="", refused="norm"),
    "opt, projected": replace(_with(_OPT, word_embed_proj_dim=16), refused="project"),
    "openai-gpt": _gpt_like(
        "OpenAIGPTLMHeadModel", "OpenAIGPTConfig", neurons="mlp.c_proj", heads="attn.c_proj", final_norm="",
        refused="norm",
    ),
    # Refused: no plain MLP in each block.
    "mixtral": _llama_like("Mixtral", {**HEADS, "num_local_experts": 4}, **_NO_MLP),
    "qwen 2, experts": _llama_like("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": D_MLP}, **_NO_MLP),
    "qwen 3, experts": _llama_like("Qwen3Moe", {**EXPERTS, "head_dim": D_HEAD}, **_NO_MLP),
    "olmo, experts": _llama_like("Olmoe", EXPERTS, **_NO_MLP),
    "granite, experts": _llama_like("GraniteMoe", {**LLAMA, "num_local_experts": 4}, **_NO_MLP),
    "gpt-oss": _llama_like("GptOss", {**HEADS, "num_local_experts": 4}, **_NO_MLP),
    "deepseek v3": _llama_like("DeepseekV3", {**DEEPSEEK, "first_k_dense_replace": 1}, **_NO_MLP),
    "llama 4": Family(model="Llama4ForCausalLM", config="Llama4TextConfig", sizes=HEADS, **_NO_MLP),
    "mamba": Family(
        model="MambaForCausalLM", config="MambaConfig", **_NO_MLP,
        sizes={"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "state_size": 4, **IDS},
    ),
    "rwkv": _llama_like("Rwkv", NEOX, **_NO_MLP),
    # Refused: no attention in each block, or a second way for tokens into the model.
    "lfm 2": _llama_like("Lfm2", {**LLAMA, "layer_types": ["conv", "full_attention"]}, refused="attn"),
    "qwen 3.5": Family(model="Qwen3_5ForCausalLM", config="Qwen3_5TextConfig", sizes=LINEAR_ATTENTION, refused="attn"),
    "olmo, hybrid": _llama_like("OlmoHybrid", LINEAR_ATTENTION, refused="attn"),
    "falcon h1": _llama_like(
        "FalconH1",
        {**HEADS, "mamba_d_ssm": D_MODEL, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
         "mamba_chunk_size": 8, "lm_head_multiplier": 2.0, "embedding_multiplier": 3.0, "mlp_multipliers": [2.0, 3.0]},
        neurons="feed_forward.down_proj", final_norm="model.final_layernorm", refused="attn",
    ),
    "gemma 3n": Family(
        model="Gemma3nForCausalLM", config="Gemma3nTextConfig", refused="per-layer",
        sizes={**HEADS, "vocab_size_per_layer_input": D_VOCAB, "hidden_size_per_layer_input": 8,
               "num_kv_shared_layers": 0, "laurel_rank": 4},
    ),
    "gemma 4": Family(
        model="Gemma4ForCausalLM", config="Gemma4TextConfig", refused="per-layer", **_BEHIND,
        sizes={**HEADS, "global_head_dim": D_HEAD, "vocab_size_per_layer_input": D_VOCAB,
               "hidden_size_per_layer_input": 8},
    ),
    "gemma 4, no inputs per layer": Family(
        model="Gemma4ForCausalLM", config="Gemma4TextConfig", **_BEHIND,
        sizes={**HEADS, "global_head_dim": D_HEAD, "hidden_size_per_layer_input": 0},
    ),
    # Refused: TransformerLens does not know them, or runs them wrongly.
    "falcon, grouped heads": replace(
        _with(_FALCON, new_decoder_architecture=True, num_kv_heads=2), refused="TransformerLens"
    ),
    "helium": _llama_like("Helium", HEADS, **_NO_ADAPTER),
    "biogpt": _llama_like("BioGpt", NEOX, **_NO_ADAPTER),
    "persimmon": _llama_like("Persimmon", NEOX, **_NO_ADAPTER),
}  # fmt: skip
"""By a name for people."""

WORKING = [name for name, family in FAMILIES.items() if family.refused is None]
