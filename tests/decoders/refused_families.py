"""Decoder families that `attach_vision` refuses, since numbers would be wrong; and why."""

from dataclasses import replace

import torch

from tests.decoders.family import (
    D_HEAD,
    D_MLP,
    D_MODEL,
    DEEPSEEK,
    EXPERTS,
    FALCON,
    HEADS,
    IDS,
    LATENT,
    LINEAR_ATTENTION,
    LLAMA,
    N_LAYERS,
    NEOX,
    OPT,
    Family,
    Refusal,
    gpt_like,
    llama_like,
    with_sizes,
)
from tests.models import D_VOCAB

_EXPERTS = {"refused": Refusal(why="mixture of experts", shown="no plain MLP"), "dtype": torch.float32}
_NO_MLP = {"refused": Refusal(why="no MLP", shown="no plain MLP")}
_LATENT = Refusal(why="TransformerLens splits the heads of latent attention wrongly", shown="heads")
WRONG_LOGITS = Refusal(why="TransformerLens computes other logits", shown="logits")
_SCALED_STREAM = Refusal(why="multiplies its residual stream after each block", shown="residual stream")
_HYBRID = Refusal(why="blocks without attention", shown="attn.hook_pattern")


def _no_adapter(name: str) -> Refusal:
    return Refusal(why="TransformerLens has no adapter for it", shown=f"{name}ForCausalLM")


REFUSED_FAMILIES: dict[str, Family] = {
    # The residual stream itself is normalised in each block.
    "OPT, norms last": replace(
        with_sizes(OPT, do_layer_norm_before=False),
        refused=Refusal(why="its blocks normalise the residual stream", shown="final_layer_norm"),
    ),
    "OPT, projected": replace(
        with_sizes(OPT, word_embed_proj_dim=16),
        refused=Refusal(why="embeddings narrower than the residual stream", shown="16 wide"),
    ),
    "GPT": gpt_like(
        "OpenAIGPTLMHeadModel", "OpenAIGPTConfig",
        refused=Refusal(why="its blocks normalise the residual stream", shown="hook_resid_post"),
    ),
    # No plain MLP in each block.
    "Mixtral": llama_like("Mixtral", {**HEADS, "num_local_experts": 4}, **_EXPERTS),
    "Qwen 2, experts": llama_like("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": D_MLP}, **_EXPERTS),
    "Qwen 3, experts": llama_like("Qwen3Moe", {**EXPERTS, "head_dim": D_HEAD}, **_EXPERTS),
    "OLMo, experts": llama_like("Olmoe", EXPERTS, **_EXPERTS),
    "Granite, experts": llama_like("GraniteMoe", {**LLAMA, "num_local_experts": 4}, **_EXPERTS),
    "GPT-OSS": llama_like("GptOss", {**HEADS, "num_local_experts": 4}, **_EXPERTS),
    "DeepSeek V3": llama_like("DeepseekV3", {**DEEPSEEK, "first_k_dense_replace": 1}, **_EXPERTS),
    "Llama 4": Family(model="Llama4ForCausalLM", config="Llama4TextConfig", sizes=HEADS, **_EXPERTS),
    "Mamba": Family(
        model="MambaForCausalLM", config="MambaConfig", **_NO_MLP,
        sizes={"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "state_size": 4, **IDS},
    ),
    "RWKV": llama_like("Rwkv", NEOX, **_NO_MLP),
    # No attention in each block, or a second way for tokens into the model.
    "LFM 2": llama_like("Lfm2", {**LLAMA, "layer_types": ["conv", "full_attention"]}, refused=_HYBRID),
    "Qwen 3.5": Family(model="Qwen3_5ForCausalLM", config="Qwen3_5TextConfig", sizes=LINEAR_ATTENTION, refused=_HYBRID),
    "OLMo, hybrid": llama_like("OlmoHybrid", LINEAR_ATTENTION, refused=_HYBRID),
    "Falcon-H1": llama_like(
        "FalconH1",
        {**HEADS, "mamba_d_ssm": D_MODEL, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
         "mamba_chunk_size": 8, "lm_head_multiplier": 2.0, "embedding_multiplier": 3.0, "mlp_multipliers": [2.0, 3.0]},
        refused=Refusal(why="multiplies the output of its MLPs", shown="MLP of block 0"),
    ),
    "Gemma 3n": Family(
        model="Gemma3nForCausalLM", config="Gemma3nTextConfig", refused=_no_adapter("Gemma3n"),
        sizes={**HEADS, "vocab_size_per_layer_input": D_VOCAB, "hidden_size_per_layer_input": 8,
               "num_kv_shared_layers": 0, "laurel_rank": 4},
    ),
    "Gemma 4": Family(
        model="Gemma4ForCausalLM", config="Gemma4TextConfig", refused=_SCALED_STREAM,
        sizes={**HEADS, "global_head_dim": D_HEAD, "vocab_size_per_layer_input": D_VOCAB,
               "hidden_size_per_layer_input": 8},
    ),
    "Gemma 4, no inputs per layer": Family(
        model="Gemma4ForCausalLM", config="Gemma4TextConfig", refused=_SCALED_STREAM,
        sizes={**HEADS, "global_head_dim": D_HEAD, "hidden_size_per_layer_input": 0},
    ),
    "DeepSeek V3, dense": llama_like("DeepseekV3", {**DEEPSEEK, "first_k_dense_replace": N_LAYERS}, refused=_LATENT),
    "Youtu": llama_like("Youtu", LATENT, refused=_LATENT),
    # TransformerLens does not know them, or runs them wrongly.
    "Falcon, grouped heads": replace(
        with_sizes(FALCON, new_decoder_architecture=True, num_kv_heads=2), refused=WRONG_LOGITS
    ),
    "Helium": llama_like("Helium", HEADS, refused=_no_adapter("Helium")),
    "BioGPT": llama_like("BioGpt", NEOX, refused=_no_adapter("BioGpt")),
    "Persimmon": llama_like("Persimmon", NEOX, refused=_no_adapter("Persimmon")),
}  # fmt: skip
