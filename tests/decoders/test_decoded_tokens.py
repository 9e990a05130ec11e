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
    """Weights are compared up to a factor for each neuron: the scales of norms depend on the position."""
    found = {"tokens that differ": 0.0, "weights": 0.0, "tokens that differ, final norm": 0.0}
    unembedding = plain(case.name).get_output_embeddings().weight * FAMILIES[case.name].logit_multiplier
    through, _ = final_norm_and_gradient(case.name, case.embeds, TOKEN)
    acts = activations(case.name, case.embeds)
    for layer in layers:
        neurons = case.active_neurons(layer)
        adds = written(case.name, case.embeds, layer, neurons)
        positions = acts[layer][:, neurons].abs().argmax(0)
        rows = torch.arange(len(neurons))
        per_unit = adds / acts[layer][:, neurons].T[..., None]
        for final_norm, direct in ((False, per_unit), (True, through(per_unit))):
            expected = (direct[rows, positions] @ unembedding.T).topk(TOP)
            table = decode_neurons(case.lens.model, [(layer, k) for k in neurons], final_norm=final_norm, top_k=TOP)
            told = torch.tensor([table[table["neuron"] == k]["token_ids"].iloc[0] for k in neurons])
            key = "tokens that differ" + (", final norm" if final_norm else "")
            found[key] += float((told != expected.indices).sum())
            if not final_norm:
                weights = torch.tensor(
                    [table[table["neuron"] == k]["weights"].iloc[0] for k in neurons], dtype=torch.float64
                )
                scaled = FAMILIES[case.name].norm_behind_mlp is not None
                if scaled:
                    weights = weights * (expected.values.norm(dim=-1) / weights.norm(dim=-1))[:, None]
                found["weights"] = max(found["weights"], difference(weights.to(expected.values), expected.values))
                ((_, whole),) = decode_layers(case.lens.model, [layer], top_k=TOP)
                found[key] += float((whole.tokens[neurons] != expected.indices).sum())
    return found


@each_family
def test_decoded_tokens_are_those_that_the_neuron_adds(name):
    assert_exact(measured(case(name)))
