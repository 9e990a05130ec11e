"""The tokens of a neuron are those that it really writes, as switching it off shows."""

import torch

from lens_multimodal.analysis import decode_layers, decode_neurons
from tests.decoders.cases import TOKEN, Case, assert_exact, case, difference, each_family, layers
from tests.decoders.families import FAMILIES
from tests.decoders.plain_models import plain
from tests.decoders.plain_runs import activations, final_norm_and_gradient, written

TOP = 10


@torch.no_grad()
def measured(case: Case) -> dict[str, float]:
    tokens, tokens_behind_final_norm, weights = 0.0, 0.0, 0.0
    unembedding = plain(case.name).get_output_embeddings().weight * FAMILIES[case.name].logit_multiplier
    through, _ = final_norm_and_gradient(case.name, case.embeds, TOKEN)
    for layer in layers:
        neurons = case.active_neurons(layer)
        active = activations(case.name, case.embeds)[layer][:, neurons].T
        per_unit = written(case.name, case.embeds, layer, neurons) / active[..., None]
        where = torch.arange(len(neurons)), active.abs().argmax(-1)
        expected = (per_unit[where] @ unembedding.T).topk(TOP)
        expected_behind = (through(per_unit)[where] @ unembedding.T).topk(TOP)
        told = _decoded(case, layer, neurons)
        ((_, whole),) = decode_layers(case.lens.model, [layer], top_k=TOP)
        tokens += float((told.indices != expected.indices).sum() + (whole.tokens[neurons] != expected.indices).sum())
        behind = _decoded(case, layer, neurons, final_norm=True)
        tokens_behind_final_norm += float((behind.indices != expected_behind.indices).sum())
        weights = max(weights, difference(_in_units_of(case, told.values, expected.values), expected.values))
    return {"tokens": tokens, "tokens, final norm": tokens_behind_final_norm, "weights": weights}


def _decoded(case: Case, layer: int, neurons: list[int], *, final_norm: bool = False) -> torch.return_types.topk:
    table = decode_neurons(case.lens.model, [(layer, k) for k in neurons], final_norm=final_norm, top_k=TOP)
    rows = table.set_index("neuron").loc[neurons]
    weights = torch.tensor(rows["weights"].tolist(), dtype=torch.float64)
    return torch.return_types.topk((weights, torch.tensor(rows["token_ids"].tolist())))


def _in_units_of(case: Case, weights: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Weights as they are; where a norm follows the MLP, up to a factor for each neuron.

    What such a neuron adds is divided by the norm's scale, which depends on the position.
    """
    if FAMILIES[case.name].norm_behind_mlp is None:
        return weights
    return weights * (expected.norm(dim=-1) / weights.norm(dim=-1))[:, None]


@each_family
def test_decoded_tokens_are_those_that_the_neuron_adds(name):
    assert_exact(measured(case(name)))
