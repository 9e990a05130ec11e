"""The logit lens unembeds as the model does: norm, unembedding, bias, multiplier, cap."""

import torch

from lens_multimodal.analysis import logit_lens, unembed_tokens
from tests.decoders.cases import OTHER, TOKEN, Case, assert_exact, case, difference, each_family
from tests.decoders.family import N_LAYERS
from tests.decoders.plain_models import plain
from tests.decoders.plain_runs import logits_from, residual_stream

TOKENS = [3, TOKEN, OTHER]


@torch.no_grad()
def measured(case: Case) -> dict[str, float]:
    found = logit_lens(case.lens.model, case.prompt.tokens, TOKENS)
    own = plain(case.name)(inputs_embeds=case.embeds).logits[0]
    stream = residual_stream(case.name, case.embeds)
    depths = torch.stack([logits_from(case.name, case.embeds, stream[depth]) for depth in range(N_LAYERS + 1)])
    expected = depths[..., TOKENS].permute(2, 0, 1)
    top = unembed_tokens(case.lens.model, stream[N_LAYERS][0], top_k=1)
    return {
        "last depth": difference(found.logit[:, -1], own[:, TOKENS].T),
        "probability at the last depth": difference(found.probability[:, -1], own.softmax(-1)[:, TOKENS].T),
        "every depth": difference(found.logit, expected),
        "ranks that differ": float(
            (found.rank != (depths[..., None] > depths[..., None, TOKENS]).sum(-2).permute(2, 0, 1)).sum()
        ),
        "unembed_tokens": difference(top.values[:, 0], own.softmax(-1).amax(-1)),
        "top tokens that differ": float((top.tokens[:, 0] != own.argmax(-1)).sum()),
    }


@each_family
def test_the_logit_lens_unembeds_as_the_model_does(name):
    assert_exact(measured(case(name)))
