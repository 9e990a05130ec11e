"""Strategies: decoders of many families with sizes, weights and switches that their authors may not have tried."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st
from transformers import PreTrainedModel

from tests.fuzz.anything import D_VOCAB

LLAMAS = ("Llama", "Qwen3", "Olmo2", "Glm4", "Granite", "Cohere", "Gemma", "Gemma2", "Mixtral")
MULTIPLIERS = st.sampled_from([0.1, 1.0, 7.5])
SPREADS = st.sampled_from([0.0, 0.3, 3.0])
"""Of norm weights and biases around their initial values."""


@st.composite
def odd_decoders(draw: st.DrawFn) -> PreTrainedModel:
    """A model with random weights; a family that the library refuses is among them."""
    family = draw(st.sampled_from([*LLAMAS, "GPTNeoX", "GPT2"]))
    n_heads = draw(st.integers(1, 3))
    d_head = 2 * draw(st.integers(1, 4))
    sizes: dict[str, Any] = {
        "vocab_size": D_VOCAB, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": draw(st.booleans()),
    }  # fmt: skip
    n_layers, d_mlp, n_ctx = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(24, 64))
    if family == "GPT2":
        sizes |= {"n_embd": n_heads * d_head, "n_head": n_heads, "n_layer": n_layers, "n_inner": d_mlp}
        sizes |= {"n_positions": n_ctx}
    else:
        sizes |= {
            "hidden_size": n_heads * d_head, "num_attention_heads": n_heads, "num_hidden_layers": n_layers,
            "intermediate_size": d_mlp, "max_position_embeddings": n_ctx,
        }  # fmt: skip
    if family == "GPTNeoX":
        sizes |= {"use_parallel_residual": draw(st.booleans()), "rotary_pct": 1.0}
    if family in LLAMAS:
        divisors = [n for n in range(1, n_heads + 1) if n_heads % n == 0]
        sizes |= {"num_key_value_heads": draw(st.sampled_from(divisors)), "head_dim": d_head, "pad_token_id": 0}
    if family in ("Llama", "Granite"):
        sizes |= {"attention_bias": draw(st.booleans()), "mlp_bias": draw(st.booleans())}
    if family == "Granite":
        sizes |= {"embedding_multiplier": draw(MULTIPLIERS), "residual_multiplier": draw(MULTIPLIERS)}
        sizes |= {"logits_scaling": draw(MULTIPLIERS)}
    if family == "Cohere":
        sizes |= {"logit_scale": draw(MULTIPLIERS)}
    if family == "Gemma2":
        sizes |= {"final_logit_softcapping": draw(st.sampled_from([None, 0.5, 30.0]))}
    if family == "Mixtral":
        sizes |= {"num_local_experts": 2, "num_experts_per_tok": 1}
    suffix = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model = getattr(transformers, family + suffix)(getattr(transformers, f"{family}Config")(**sizes))
    spread, seed = draw(SPREADS), draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.add_(spread * noise)
            else:
                weight.copy_(noise / weight.shape[-1] ** 0.5)
    return model.train(draw(st.booleans())).to(draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16])))
