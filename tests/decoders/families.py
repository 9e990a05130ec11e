"""Decoder families that work, with the smallest models that show what is special about each.

One line per family, or per layout where one class has several.
"""

from dataclasses import replace

import torch

from tests.decoders.family import (
    BEHIND,
    CAPPED,
    D_MLP,
    D_MODEL,
    FALCON,
    GEMMA,
    GPT2,
    GPT_NEOX,
    GRANITE,
    HEADS,
    IDS,
    LLAMA,
    N_HEADS,
    N_LAYERS,
    OPT,
    Family,
    Refusal,
    gpt_like,
    llama_like,
    with_sizes,
)
from tests.decoders.refused_families import REFUSED_FAMILIES, WRONG_LOGITS
from tests.models import D_VOCAB

WORKING_FAMILIES: dict[str, Family] = {
    # RMSNorm, rotary positions, attention and MLP one after the other.
    "Llama": llama_like("Llama"),
    "Llama, all biases": llama_like("Llama", {**LLAMA, "mlp_bias": True, "attention_bias": True}),
    "Llama, tied embeddings": llama_like("Llama", {**LLAMA, "tie_word_embeddings": True}),
    "Mistral": llama_like("Mistral", HEADS),
    "Ministral 3": llama_like("Ministral3", HEADS),
    "Qwen 2": llama_like("Qwen2"),
    "Qwen 3": llama_like("Qwen3", HEADS),
    "SmolLM 3": llama_like("SmolLM3"),
    "Ernie 4.5": llama_like("Ernie4_5", {**HEADS, "use_bias": True}),
    "Seed-OSS": llama_like("SeedOss", HEADS),
    "Arcee": llama_like("Arcee"),
    "Apertus": llama_like("Apertus"),
    "HunYuan": llama_like("HunYuanDenseV1", HEADS, refused_by_3=WRONG_LOGITS),
    "Phi 3": llama_like("Phi3"),
    "OLMo": llama_like("Olmo"),
    "GLM": llama_like("Glm", HEADS),
    "Jais 2": llama_like("Jais2", HEADS),
    "BitNet": llama_like("BitNet", HEADS),
    # Multipliers and caps of logits, multipliers of the residual stream.
    "Granite": llama_like("Granite", GRANITE, logit_multiplier=1 / 0.4, refused_by_3=Refusal(
            why="TransformerLens 3 ignores edits of what its blocks add", shown="hook_mlp_out"
        )),
    "Cohere": llama_like("Cohere", {**LLAMA, "logit_scale": 2.5}, logit_multiplier=2.5, refused_by_3=WRONG_LOGITS),
    "Cohere 2": llama_like("Cohere2", {**LLAMA, "logit_scale": 2.5}, logit_multiplier=2.5, refused_by_3=WRONG_LOGITS),
    "NanoChat": llama_like("NanoChat", {**HEADS, **CAPPED}, neurons="mlp.fc2"),
    # RMSNorm by 1 + weight; norms after attention and MLP.
    "Gemma": llama_like("Gemma", HEADS),
    "Gemma 2": llama_like("Gemma2", {**GEMMA, **CAPPED}, **BEHIND),
    "Gemma 3": Family(model="Gemma3ForCausalLM", config="Gemma3TextConfig", sizes=GEMMA, **BEHIND),
    "VaultGemma": llama_like("VaultGemma", {**GEMMA, **CAPPED}),
    "GLM-4": llama_like("Glm4", HEADS, norm_behind_mlp="post_mlp_layernorm"),
    "OLMo 2": llama_like("Olmo2", **BEHIND),
    "OLMo 3": llama_like("Olmo3", **BEHIND),
    "EXAONE 4": llama_like("Exaone4", **BEHIND),
    # LayerNorm.
    "StableLM": llama_like("StableLm"),
    "Nemotron": llama_like("Nemotron"),
    "StarCoder 2": llama_like("Starcoder2", neurons="mlp.c_proj"),
    "GPT-2": gpt_like("GPT2LMHeadModel", "GPT2Config", neurons="mlp.c_proj", heads="attn.c_proj"),
    "GPT-Neo": gpt_like(
        "GPTNeoForCausalLM", "GPTNeoConfig",
        {"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_layers": N_LAYERS, "num_heads": N_HEADS,
         "intermediate_size": D_MLP, "max_position_embeddings": 64, "window_size": 4,
         "attention_types": [[["global", "local"], 1]], **IDS},
        neurons="mlp.c_proj", heads="attn.attention.out_proj",
    ),
    "GPT-BigCode": gpt_like(
        "GPTBigCodeForCausalLM", "GPTBigCodeConfig", {**GPT2, "multi_query": True},
        neurons="mlp.c_proj", heads="attn.c_proj",
    ),
    "MPT": gpt_like(
        "MptForCausalLM", "MptConfig",
        {"vocab_size": D_VOCAB, "d_model": D_MODEL, "n_layers": N_LAYERS, "n_heads": N_HEADS,
         "expansion_ratio": 2, "max_seq_len": 64, **IDS},
        blocks="transformer.blocks", neurons="ffn.down_proj", heads="attn.out_proj", final_norm="transformer.norm_f",
        refused_by_3=WRONG_LOGITS,
    ),
    "BLOOM": gpt_like(
        "BloomForCausalLM", "BloomConfig",
        {"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS, **IDS},
        neurons="mlp.dense_4h_to_h", heads="self_attention.dense",
    ),
    "OPT": OPT,
    "XGLM": Family(
        model="XGLMForCausalLM", config="XGLMConfig", dtype=torch.float32,
        sizes={"vocab_size": D_VOCAB, "d_model": D_MODEL, "num_layers": N_LAYERS, "ffn_dim": D_MLP,
               "attention_heads": N_HEADS, "max_position_embeddings": 64, **IDS, "pad_token_id": 1},
        neurons="fc2", heads="self_attn.out_proj", final_norm="model.layer_norm",
    ),
    # Attention and MLP side by side.
    "GPT-J": gpt_like(
        "GPTJForCausalLM", "GPTJConfig", {**GPT2, "rotary_dim": 4, "tie_word_embeddings": False},
        neurons="mlp.fc_out", heads="attn.out_proj",
    ),
    "CodeGen": gpt_like(
        "CodeGenForCausalLM", "CodeGenConfig", {**GPT2, "rotary_dim": 4, "tie_word_embeddings": False},
        neurons="mlp.fc_out", heads="attn.out_proj",
    ),
    "GPT-NeoX": GPT_NEOX,
    "GPT-NeoX, sequential": with_sizes(GPT_NEOX, use_parallel_residual=False),
    "Phi": llama_like("Phi", neurons="mlp.fc2", heads="self_attn.dense", final_norm="model.final_layernorm"),
    "StableLM, parallel": llama_like("StableLm", {**LLAMA, "use_parallel_residual": True}),
    "Falcon": with_sizes(FALCON, multi_query=True),
    "Falcon, all heads": FALCON,
    "Falcon, alibi": replace(
        with_sizes(FALCON, alibi=True, parallel_attn=False), refused_by_3=WRONG_LOGITS
    ),
}  # fmt: skip
"""By a name for people."""

FAMILIES = {**WORKING_FAMILIES, **REFUSED_FAMILIES}
