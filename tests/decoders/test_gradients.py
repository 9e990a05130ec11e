"""Activation times gradient of neurons, heads and positions is that of plain transformers' autograd."""

import torch

from lens_multimodal.analysis import LogProbability, head_attribution, neuron_attribution, position_attribution
from tests.decoders.cases import TOKEN, Case, assert_exact, case, difference, each_family, layers
from tests.decoders.family import N_HEADS
from tests.decoders.plain_models import block, head_reader, neuron_reader, plain
from tests.decoders.plain_runs import inputs_times_gradients


def measured(case: Case) -> dict[str, float]:
    name, model = case.name, plain(case.name)
    given = (case.lens.model, case.prompt.tokens)

    def expected(part_of, value=lambda logits: logits[0, -1, TOKEN]) -> torch.Tensor:
        found = inputs_times_gradients(
            {layer: part_of(name, model, layer) for layer in layers}, model, case.embeds, value
        )
        return torch.stack([found[layer] for layer in layers])

    heads = expected(head_reader)
    log_probability = expected(neuron_reader, lambda logits: logits[0, -1].log_softmax(-1)[TOKEN])
    return {
        "neurons": difference(neuron_attribution(*given, TOKEN)[0], expected(neuron_reader)),
        "neurons, log probability": difference(
            neuron_attribution(*given, LogProbability(token=TOKEN))[0], log_probability
        ),
        "heads": difference(head_attribution(*given, TOKEN)[0], heads.unflatten(-1, (N_HEADS, -1)).sum(-1)),
        "positions": difference(position_attribution(*given, TOKEN)[0], expected(block).sum(-1)),
    }


@each_family
def test_activation_times_gradient_is_that_of_plain_transformers(name):
    assert_exact(measured(case(name)))
