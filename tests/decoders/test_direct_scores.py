"""Each score without gradient is the exact effect of switching a neuron off, with later computation and norms held."""

import torch

from lens_multimodal.analysis import LogitDifference, neuron_attribution
from tests.decoders.cases import OTHER, TOKEN, Case, assert_exact, case, difference, each_family, layers
from tests.decoders.plain_runs import final_norm_and_gradient, written


def measured(case: Case) -> dict[str, float]:
    model, tokens = case.lens.model, case.prompt.tokens

    def told(score: str, target: object = TOKEN) -> torch.Tensor:
        scores = neuron_attribution(model, tokens, target, score=score)[0]
        return torch.stack([scores[layer][:, case.active_neurons(layer)].T for layer in layers])

    with torch.no_grad():
        adds = torch.stack([written(case.name, case.embeds, layer, case.active_neurons(layer)) for layer in layers])
    through, gradient = final_norm_and_gradient(case.name, case.embeds, TOKEN)
    _, other_gradient = final_norm_and_gradient(case.name, case.embeds, OTHER)
    local = through(adds) @ gradient
    against = through(adds) @ (gradient - other_gradient)
    last = case.last
    pair = LogitDifference(token=TOKEN, other=OTHER)
    return {
        "direct_effect": difference(told("direct_effect")[..., last], local[..., last]),
        "direct_effect of a difference": difference(told("direct_effect", pair)[..., last], against[..., last]),
        "direct_effect elsewhere": float(told("direct_effect")[..., :last].abs().max()),
        "local_direct_effect": difference(told("local_direct_effect"), local),
        "activation_x_decoded": difference(told("activation_x_decoded"), adds @ gradient),
    }


@each_family
def test_direct_scores_are_exact_effects(name):
    assert_exact(measured(case(name)))
