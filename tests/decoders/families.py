"""One small random model of each decoder family of transformers, and where its parts are in plain transformers.

A family is one line of the table: the class, its configuration, and the names of its modules. Every weight is random,
norm weights and biases too, so that nothing is right by being zero or one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from tests.models import D_VOCAB

D_MODEL, D_MLP, N_LAYERS, N_HEADS, D_HEAD = 32, 40, 2, 4, 8


@dataclass(frozen=True, kw_only=True)
class Family:
    """A decoder class with a small configuration; module names are those of plain transformers."""

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
    refused: str | None = None
    """Words of the error with which the library refuses this family; None if it takes it."""
    dtype: torch.dtype = torch.float64
    """float32 where plain transformers cannot run in float64."""

    def make_config(self) -> PretrainedConfig:
        config = getattr(transformers, self.config)(**self.sizes)
        config._attn_implementation = "eager"
        return config


IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
LLAMA = {
    "vocab_size": D_VOCAB, "hidden_size": D_MODEL, "intermediate_size": D_MLP, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS, "num_key_value_heads": 2, "max_position_embeddings": 64, **IDS,
    "tie_word_embeddings": False,
}  # fmt: skip
LONG_HEADS = {**LLAMA, "head_dim": D_HEAD}
EXPERTS = {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": D_MLP}
GPT2 = {
    "vocab_size": D_VOCAB, "n_positions": 64, "n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS,
    "n_inner": D_MLP, **IDS,
}  # fmt: skip
NEOX = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
FALCON = NEOX
IN_TRANSFORMER = {"blocks": "transformer.h", "final_norm": "transformer.ln_f"}
BEHIND = {"norm_behind_mlp": "post_feedforward_layernorm"}


def _llama_like(name: str, sizes: Mapping[str, Any] = LLAMA, **parts: Any) -> Family:
    return Family(model=f"{name}ForCausalLM", config=f"{name}Config", sizes=sizes, **parts)


FAMILIES: dict[str, Family] = {
    # Llama and its kin: RMSNorm, gated MLP.
    "llama": _llama_like("Llama"),
    "llama-biases": _llama_like("Llama", {**LLAMA, "mlp_bias": True, "attention_bias": True}),
    "mistral": _llama_like("Mistral", LONG_HEADS),
    "ministral-3": _llama_like("Ministral3", LONG_HEADS),
    "qwen-2": _llama_like("Qwen2"),
    "qwen-3": _llama_like("Qwen3", LONG_HEADS),
    "smollm-3": _llama_like("SmolLM3"),
    "ernie-4.5": _llama_like("Ernie4_5", {**LONG_HEADS, "use_bias": True}),
    "seed-oss": _llama_like("SeedOss", LONG_HEADS),
    "arcee": _llama_like("Arcee"),
    "apertus": _llama_like("Apertus"),
    "hunyuan": _llama_like("HunYuanDenseV1", LONG_HEADS),
    "helium": _llama_like("Helium", LONG_HEADS),
    "phi-3": _llama_like("Phi3"),
    "olmo": _llama_like("Olmo"),
    "glm": _llama_like("Glm", LONG_HEADS),
    "granite": _llama_like(
        "Granite",
        {
            **LLAMA, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.3,
            "logits_scaling": 8.0,
        },
    ),  # fmt: skip
    # RMSNorm by 1 + weight.
    "gemma": _llama_like("Gemma", LONG_HEADS),
    # A norm behind the MLP.
    "gemma-2": _llama_like(
        "Gemma2", {**LONG_HEADS, "query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0}, **BEHIND
    ),
    "gemma-3": Family(
        model="Gemma3ForCausalLM", config="Gemma3TextConfig",
        sizes={**LONG_HEADS, "query_pre_attn_scalar": 8}, **BEHIND,
    ),
    "vaultgemma": _llama_like("VaultGemma", {**LONG_HEADS, "query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0}),
    "nanochat": _llama_like("NanoChat", {**LONG_HEADS, "final_logit_softcapping": 5.0}),
    "jais-2": _llama_like("Jais2", LONG_HEADS),
    "bitnet": _llama_like("BitNet", LONG_HEADS),
    "youtu": _llama_like("Youtu", {**LONG_HEADS, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8, "v_head_dim": 8}),
    "recurrent-gemma": _llama_like("RecurrentGemma", LLAMA),
    "falcon-h1": _llama_like("FalconH1", LONG_HEADS),
    "lfm-2": _llama_like("Lfm2", LLAMA),
    "gemma-4": Family(model="Gemma4ForCausalLM", config="Gemma4TextConfig", sizes=LONG_HEADS, **BEHIND),
    "gemma-3n": Family(model="Gemma3nForCausalLM", config="Gemma3nTextConfig", sizes=LONG_HEADS, **BEHIND),
    "deepseek-v3": _llama_like("DeepseekV3"),
    "modernbert-decoder": _llama_like("ModernBertDecoder", LLAMA),
    "biogpt": _llama_like("BioGpt", LLAMA),
    "persimmon": _llama_like("Persimmon", LLAMA),
    "bamba": _llama_like("Bamba", LLAMA),
    "jamba": _llama_like("Jamba", LLAMA),
    "qwen-3.5": Family(model="Qwen3_5ForCausalLM", config="Qwen3_5TextConfig", sizes=LONG_HEADS),
    "qwen-3-next": _llama_like("Qwen3Next", LONG_HEADS),
    "hrm": _llama_like("HrmText", LONG_HEADS),
    "rwkv": _llama_like("Rwkv", LLAMA),
    "olmo-hybrid": _llama_like("OlmoHybrid", LLAMA),
    "llama-4": Family(model="Llama4ForCausalLM", config="Llama4TextConfig", sizes=LONG_HEADS),
    "glm-4": _llama_like("Glm4", LONG_HEADS, norm_behind_mlp="post_mlp_layernorm"),
    "olmo-2": _llama_like("Olmo2", **BEHIND),
    "olmo-3": _llama_like("Olmo3", **BEHIND),
    "exaone-4": _llama_like("Exaone4", **BEHIND),
    # LayerNorm.
    "stablelm": _llama_like("StableLm"),
    "nemotron": _llama_like("Nemotron"),
    "starcoder-2": _llama_like("Starcoder2", neurons="mlp.c_proj"),
    # Attention and MLP side by side.
    "cohere": _llama_like("Cohere"),
    "cohere-2": _llama_like("Cohere2"),
    "phi": _llama_like("Phi", neurons="mlp.fc2", heads="self_attn.dense", final_norm="model.final_layernorm"),
    "gpt-j": Family(
        model="GPTJForCausalLM", config="GPTJConfig", sizes={**GPT2, "rotary_dim": 4, "tie_word_embeddings": False},
        neurons="mlp.fc_out", heads="attn.out_proj", **IN_TRANSFORMER,
    ),
    "stablelm-parallel": _llama_like("StableLm", {**LLAMA, "use_parallel_residual": True}),
    **{
        name: Family(
            model="GPTNeoXForCausalLM", config="GPTNeoXConfig",
            sizes={**NEOX, "rotary_pct": 0.5, "use_parallel_residual": parallel},
            blocks="gpt_neox.layers", neurons="mlp.dense_4h_to_h", heads="attention.dense",
            final_norm="gpt_neox.final_layer_norm",
        )
        for name, parallel in (("gpt-neox", True), ("gpt-neox-sequential", False))
    },
    "falcon": Family(
        model="FalconForCausalLM", config="FalconConfig",
        sizes={**FALCON, "ffn_hidden_size": D_MLP, "multi_query": False, "new_decoder_architecture": False,
               "bias": True, "alibi": False, "parallel_attn": True},
        neurons="mlp.dense_4h_to_h", heads="self_attention.dense", **IN_TRANSFORMER,
    ),
    "falcon-new": Family(
        model="FalconForCausalLM", config="FalconConfig",
        sizes={**FALCON, "ffn_hidden_size": D_MLP, "num_kv_heads": 2, "new_decoder_architecture": True,
               "bias": False, "alibi": False},
        neurons="mlp.dense_4h_to_h", heads="self_attention.dense", **IN_TRANSFORMER,
    ),
    "falcon-alibi": Family(
        model="FalconForCausalLM", config="FalconConfig",
        sizes={**FALCON, "ffn_hidden_size": D_MLP, "multi_query": False, "new_decoder_architecture": False,
               "bias": True, "alibi": True, "parallel_attn": False},
        neurons="mlp.dense_4h_to_h", heads="self_attention.dense", **IN_TRANSFORMER,
    ),
    # GPT-2 and its kin.
    "gpt-2": Family(
        model="GPT2LMHeadModel", config="GPT2Config", sizes=GPT2,
        neurons="mlp.c_proj", heads="attn.c_proj", **IN_TRANSFORMER,
    ),
    "gpt-neo": Family(
        model="GPTNeoForCausalLM", config="GPTNeoConfig",
        sizes={"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_layers": N_LAYERS, "num_heads": N_HEADS,
               "intermediate_size": D_MLP, "max_position_embeddings": 64, "window_size": 4,
               "attention_types": [[["global", "local"], 1]], **IDS},
        neurons="mlp.c_proj", heads="attn.attention.out_proj", **IN_TRANSFORMER,
    ),
    "gpt-bigcode": Family(
        model="GPTBigCodeForCausalLM", config="GPTBigCodeConfig", sizes={**GPT2, "multi_query": True},
        neurons="mlp.c_proj", heads="attn.c_proj", **IN_TRANSFORMER,
    ),
    "codegen": Family(
        model="CodeGenForCausalLM", config="CodeGenConfig", sizes={**GPT2, "rotary_dim": 4, "tie_word_embeddings": False},
        neurons="mlp.fc_out", heads="attn.out_proj", **IN_TRANSFORMER,
    ),
    "openai-gpt": Family(
        model="OpenAIGPTLMHeadModel", config="OpenAIGPTConfig", sizes=GPT2,
        neurons="mlp.c_proj", heads="attn.c_proj", blocks="transformer.h", final_norm="",
    ),
    "mpt": Family(
        model="MptForCausalLM", config="MptConfig",
        sizes={"vocab_size": D_VOCAB, "d_model": D_MODEL, "n_layers": N_LAYERS, "n_heads": N_HEADS,
               "expansion_ratio": 2, "max_seq_len": 64, **IDS},
        blocks="transformer.blocks", neurons="ffn.down_proj", heads="attn.out_proj", final_norm="transformer.norm_f",
    ),
    "bloom": Family(
        model="BloomForCausalLM", config="BloomConfig",
        sizes={"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS, **IDS},
        neurons="mlp.dense_4h_to_h", heads="self_attention.dense", **IN_TRANSFORMER,
    ),
    **{
        name: Family(
            model="OPTForCausalLM", config="OPTConfig",
            sizes={"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "ffn_dim": D_MLP,
                   "num_attention_heads": N_HEADS, "max_position_embeddings": 64, "word_embed_proj_dim": D_MODEL,
                   "do_layer_norm_before": before, **IDS},
            blocks="model.decoder.layers", neurons="fc2", heads="self_attn.out_proj",
            final_norm="model.decoder.final_layer_norm" if before else "",
        )
        for name, before in (("opt", True), ("opt-post-norm", False))
    },
    "xglm": Family(
        model="XGLMForCausalLM", config="XGLMConfig",
        sizes={"vocab_size": D_VOCAB, "d_model": D_MODEL, "num_layers": N_LAYERS, "ffn_dim": D_MLP,
               "attention_heads": N_HEADS, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
               "pad_token_id": 1}, dtype=torch.float32,
        neurons="fc2", heads="self_attn.out_proj", final_norm="model.layer_norm",
    ),
    # No plain MLP in each block.
    "mixtral": _llama_like("Mixtral", {**LONG_HEADS, "num_local_experts": 4}, refused="MLP", dtype=torch.float32),
    "qwen-2-moe": _llama_like("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": D_MLP}, refused="MLP", dtype=torch.float32),
    "qwen-3-moe": _llama_like("Qwen3Moe", {**EXPERTS, "head_dim": D_HEAD}, refused="MLP", dtype=torch.float32),
    "olmoe": _llama_like("Olmoe", EXPERTS, refused="MLP", dtype=torch.float32),
    "granite-moe": _llama_like("GraniteMoe", {**LLAMA, "num_local_experts": 4}, refused="MLP", dtype=torch.float32),
    "phi-moe": _llama_like("Phimoe", {**LLAMA, "num_local_experts": 4}, refused="MLP", dtype=torch.float32),
    "gpt-oss": _llama_like("GptOss", {**LONG_HEADS, "num_local_experts": 4}, refused="MLP", dtype=torch.float32),
    "mamba": Family(
        model="MambaForCausalLM", config="MambaConfig", blocks="backbone.layers",
        sizes={"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "state_size": 4, **IDS},
        refused="MLP", neurons="", heads="", final_norm="backbone.norm_f",
    ),
}  # fmt: skip


@cache
def plain(name: str) -> PreTrainedModel:
    """The random model as plain transformers has it; never wrapped, never changed."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    model = getattr(transformers, family.model)(family.make_config()).to(family.dtype).eval().requires_grad_(False)
    randomise(model)
    return model


def randomise(model: nn.Module, *, seed: int = 0) -> None:
    """Weights that carry logits to a few units; norms and biases spread around their initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
            if parameter.ndim == 1:
                parameter.add_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)


def twin(name: str) -> PreTrainedModel:
    """A copy of the same weights, to be wrapped or edited."""
    original = plain(name)
    made = type(original)(FAMILIES[name].make_config()).to(original.dtype).eval().requires_grad_(False)
    made.load_state_dict(original.state_dict())
    return made


def part(model: nn.Module, path: str) -> Any:
    return model.get_submodule(path)


def block(name: str, model: nn.Module, layer: int) -> Any:
    return part(model, f"{FAMILIES[name].blocks}.{layer}")


def neuron_reader(name: str, model: nn.Module, layer: int) -> Any:
    return part(block(name, model, layer), FAMILIES[name].neurons)


def head_reader(name: str, model: nn.Module, layer: int) -> Any:
    return part(block(name, model, layer), FAMILIES[name].heads)
