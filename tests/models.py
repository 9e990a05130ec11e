"""Small random language models of real layouts, every size different, every bias and scale randomised."""

import torch
from torch import nn
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from lens_multimodal.transformer import hooked_transformer

D_VOCAB = 97

LAYOUTS: dict[str, PretrainedConfig] = {
    "gpt-j": GPTJConfig(
        vocab_size=D_VOCAB, n_positions=64, n_embd=24, n_layer=3, n_head=2, rotary_dim=4, n_inner=40,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    ),
    "gpt-2": GPT2Config(
        vocab_size=D_VOCAB, n_positions=64, n_embd=24, n_layer=3, n_head=2, n_inner=40,
        bos_token_id=0, eos_token_id=0,
    ),
    "pythia": GPTNeoXConfig(
        vocab_size=D_VOCAB, max_position_embeddings=64, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=40, rotary_pct=0.5, bos_token_id=0, eos_token_id=0,
    ),
    "llama": LlamaConfig(
        vocab_size=D_VOCAB, max_position_embeddings=64, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=40, bos_token_id=1, eos_token_id=0, pad_token_id=0,
    ),
    "opt": OPTConfig(
        vocab_size=D_VOCAB, max_position_embeddings=64, hidden_size=24, num_hidden_layers=3, num_attention_heads=2,
        ffn_dim=40, word_embed_proj_dim=24, bos_token_id=2, eos_token_id=0, pad_token_id=1,
    ),
}  # fmt: skip

ARCHITECTURES = {
    "gpt-j": "GPTJForCausalLM",
    "gpt-2": "GPT2LMHeadModel",
    "pythia": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "opt": "OPTForCausalLM",
}

MLP_OUT = {
    "gpt-j": "mlp.fc_out",
    "gpt-2": "mlp.c_proj",
    "pythia": "mlp.dense_4h_to_h",
    "llama": "mlp.down_proj",
    "opt": "fc2",
}
"""The linear layer of a block that reads the neurons."""


def random_language_model(
    layout: str = "gpt-j", *, seed: int = 0, scale: float = 3.0, dtype: torch.dtype = torch.float32, n_layers: int = 3
) -> PreTrainedModel:
    """A Hugging Face causal language model with large random weights, so that inputs matter."""
    config = LAYOUTS[layout].__class__.from_dict(LAYOUTS[layout].to_dict())
    config.num_hidden_layers = n_layers
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(dtype)
            if parameter.ndim == 1:
                one = 1.0 if "weight" in name else 0.0
                parameter.copy_(one + 0.1 * noise)
            else:
                parameter.copy_(scale * 0.08 * noise)
    return model


MODEL_CLASSES = ["bridge", "compat", *(["hooked"] if hooked_transformer.is_available() else [])]
"""The model classes of the installed TransformerLens generation."""


def wrapped_model(kind: str, language_model: PreTrainedModel, tokenizer: object = None) -> nn.Module:
    """Wrap a copy of the weights in a TransformerLens model class, weights unprocessed."""
    layout = language_model.config.model_type
    twin = type(language_model)(language_model.config).to(language_model.dtype).eval()
    twin.load_state_dict(language_model.state_dict())
    twin.generation_config = language_model.generation_config
    if kind == "hooked":
        if layout != "gptj":
            raise ValueError(f"these tests build a HookedTransformer for GPT-J only, not for {layout}")
        return hooked_transformer.hooked_gpt_j(twin, tokenizer=tokenizer)
    architecture = type(language_model).__name__
    bridge = build_bridge_from_module(twin, architecture, hf_config=twin.config, tokenizer=tokenizer)
    if kind == "compat":
        bridge.enable_compatibility_mode(no_processing=True)
    return bridge
