"""Bare modules and the TransformerLens model give the same numbers, and what could make them differ is noticed."""

import gc
import weakref
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import nn

from lens_multimodal import transformer
from lens_multimodal.analysis import ablation_effects, effect_of, neuron_attribution, neuron_attribution_by_row
from lens_multimodal.hooks import ablate
from lens_multimodal.prompt.generation import Sampling
from lens_multimodal.transformer.which_model import running_on, why_hooked
from tests.decoders.cases import TOKEN, WORKING, Case, case, difference, each_family, image_vectors, layers
from tests.decoders.plain_models import part
from tests.lenses import make_lens, random_prompt

HOOKED_FAMILIES = {
    "Phi 3", "GLM", "GLM-4", "GPT-2", "GPT-BigCode", "MPT", "BLOOM", "CodeGen", "GPT-NeoX", "GPT-NeoX, sequential",
    "Falcon", "Falcon, all heads", "Falcon, alibi",
}  # fmt: skip
"""TransformerLens computes with copies of these families' weights, or gives their blocks another forward method."""

EXACT = 1e-6


def everything(case: Case, n_new: int = 5) -> dict[str, torch.Tensor]:
    """What the library computes on a lens: logits, attribution, effects and generated tokens."""
    lens, model, tokens = case.lens, case.lens.model, case.prompt.tokens
    (image,) = (span.image for span in case.prompt.spans[0])
    padded = lens.interleave([[image, "a red dog"], [image, "a red"]], prepend_bos=False)
    batch = lens.prompt_from_vectors(image_vectors(case.name, count=3), "a red dog", prepend_bos=False)
    neurons = [(layer, neuron) for layer in layers for neuron in case.active_neurons(layer, 3)]
    effect = effect_of(model, tokens, ablate(model, neurons, positions=[-1, 0, 1]), TOKEN)

    def written(sampling: Sampling | None) -> torch.Tensor:
        torch.manual_seed(7)
        rows = lens.generate_ids(batch, sampling=sampling, max_new_tokens=n_new)
        return torch.tensor([[*ids, *[-1] * (n_new - len(ids))] for ids in rows])

    return {
        "logits": lens.logits(case.prompt),
        "last logits": transformer.logits_of(model, tokens, first=tokens.shape[1] - 1),
        "padded": lens.logits(padded).nan_to_num(),
        "attribution": neuron_attribution(model, tokens, [TOKEN, TOKEN + 1], score="activation_x_gradient"),
        "attribution by row": neuron_attribution_by_row(model, batch.tokens, [TOKEN, TOKEN + 1, TOKEN + 2]),
        "integrated gradients": neuron_attribution(model, tokens, TOKEN, score="integrated_gradients", layers=1),
        "effect": torch.stack([effect.logit_after, effect.probability_change, effect.kl]),
        "ablations": torch.tensor(ablation_effects(model, tokens, TOKEN, neurons)["effect"].to_numpy()),
        "greedy": transformer.generate(model, batch.tokens, max_new_tokens=n_new, stop_ids=[])[:, -n_new:],
        "captions": written(None),
        "sampled": written(Sampling(do_sample=True, top_k=20, temperature=0.8)),
        "penalised": written(Sampling(repetition_penalty=1.3, frequency_penalty=0.5)),
        "sampled and penalised": written(Sampling(do_sample=True, top_p=0.9, frequency_penalty=0.5)),
        "beams": written(Sampling(num_beams=3)),
    }


@each_family
def test_both_ways_give_the_same_numbers(name):
    lens = case(name).lens
    if name in HOOKED_FAMILIES:
        assert why_hooked(lens.model) is not None
        with running_on(lens.model, "bare"), pytest.raises(RuntimeError):
            lens.logits(case(name).prompt)
        return
    with running_on(lens.model, "hooked"):
        expected = everything(case(name))
    with running_on(lens.model, "bare") if name != "OPT" else ExitStack():  # without hook points of neurons
        found = everything(case(name))
    assert why_hooked(lens.model) is None
    for quantity, value in expected.items():
        if value.is_floating_point():
            assert difference(found[quantity], value) < EXACT, quantity
        else:
            assert torch.equal(found[quantity], value), quantity
