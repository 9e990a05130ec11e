"""Logits and greedy tokens through virtual tokens are those of plain transformers with `inputs_embeds`."""

import copy

import torch

from lens_multimodal import transformer
from tests.decoders.cases import N_VECTORS, Case, assert_exact, case, difference, each_family, image_vectors, new_lens
from tests.decoders.plain_models import plain
from tests.decoders.plain_runs import embedded

N_NEW = 8


def measured(case: Case) -> dict[str, float]:
    model = plain(case.name)
    with torch.no_grad():
        expected = model(inputs_embeds=case.embeds).logits
    return {
        "logits": difference(case.lens.logits(case.prompt), expected),
        "logits with left padding": padded(case.name),
        **generated(case),
    }


def generated(case: Case) -> dict[str, float]:
    """Greedy tokens after four images with the key-value cache, and the logits at each step."""
    vectors = image_vectors(case.name, count=4)
    prompt = case.lens.prompt_from_vectors(vectors, "a red dog", prepend_bos=False)
    embeds = embedded(case.name, vectors, prompt.tokens[:, N_VECTORS:])
    expected = plain(case.name).generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=N_NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=1,
        bos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    steps: list[torch.Tensor] = []
    inner = case.lens.model.original_model
    handle = inner.register_forward_hook(lambda *given: steps.append(given[-1].logits[:, -1].detach()))
    try:
        tokens = transformer.generate(case.lens.model, prompt.tokens, max_new_tokens=N_NEW, stop_ids=[])
    finally:
        handle.remove()
    return {
        "greedy tokens that differ": float((tokens[:, prompt.tokens.shape[1] :] != expected.sequences).sum()),
        "logits while generating": difference(torch.stack(steps), torch.stack(expected.logits)),
    }


def padded(name: str) -> float:
    """A batch of two lengths against each row alone, in float32: in float64, padded rows of transformers are NaN."""
    model, lens = copy.deepcopy(plain(name)).float(), new_lens(name, torch.float32)
    vectors = image_vectors(name).float()
    (image,) = (span.image for span in lens.prompt_from_vectors(vectors, "", prepend_bos=False).spans[0])
    both = lens.interleave([[image, "a red dog"], [image, "a"]], prepend_bos=False)
    logits = lens.logits(both)
    found = []
    for i in range(2):
        row = both.row(i)
        embeds = model.get_input_embeddings()(row.tokens.masked_fill(row.image_mask, 0)).detach().clone()
        embeds[0, row.image_mask[0]] = vectors[0]
        with torch.no_grad():
            expected = model(inputs_embeds=embeds).logits[0]
        found.append(difference(logits[i, -len(expected) :], expected))
    return max(found)


@each_family
def test_virtual_tokens_are_inputs_embeds(name):
    assert_exact(measured(case(name)))
