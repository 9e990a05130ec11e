"""A vocabulary of 262,144 tokens, as Gemma 3 has it: no result of positions, layers or neurons times the vocabulary."""

from functools import cache

import pytest
import torch
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from lens_multimodal import analysis, transformer
from tests.analysis.attribution.live_tensors import live_peak

D_VOCAB, N_LAYERS, N_POS, D_MLP = 262_144, 6, 40, 24
FLOAT = 4
ONE_POSITION = FLOAT * D_VOCAB
TOKENS = torch.arange(7, 7 + N_POS)[None]


@cache
def model() -> nn.Module:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=D_VOCAB, hidden_size=16, intermediate_size=D_MLP, num_hidden_layers=N_LAYERS, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, final_logit_softcapping=30.0,
    )  # fmt: skip
    return transformer.wrap(Gemma3ForCausalLM(config)).requires_grad_(False)


def vectors() -> torch.Tensor:
    return torch.randn(N_POS, 16, generator=torch.Generator().manual_seed(0))


BUDGET = {"budget_bytes": 8 * ONE_POSITION}
RUNS = {
    "logit lens": lambda: analysis.logit_lens(model(), TOKENS, [5, 9], chunk=4),
    "unembedded vectors": lambda: analysis.unembed_tokens(model(), vectors(), chunk=4),
    "nearest embeddings": lambda: analysis.nearest_embeddings(model(), vectors(), **BUDGET),
    "decoded layers": lambda: list(analysis.decode_layers(model(), **BUDGET)),
    "driving tokens": lambda: analysis.driving_tokens(
        model(), {layer: range(D_MLP) for layer in range(N_LAYERS)}, **BUDGET
    ),
    **{
        score: lambda score=score: analysis.neuron_attribution(model(), TOKENS, [5, 9], score=score)
        for score in ("activation_x_gradient", "activation_x_decoded", "local_direct_effect", "direct_effect")
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_memory_is_that_of_a_few_positions(name):
    assert live_peak(RUNS[name]) < 30 * ONE_POSITION < N_POS * ONE_POSITION
