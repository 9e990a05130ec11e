"""Logits and greedy tokens through virtual tokens are those of plain transformers with `inputs_embeds`."""

import torch

from lens_multimodal import transformer
from tests.decoders.cases import Case, assert_exact, case, difference, each_family, image_vectors
from tests.decoders.plain_models import plain

N_NEW = 8


def measured(case: Case) -> dict[str, float]:
    model = plain(case.name)
    with torch.no_grad():
        expected = model(inputs_embeds=case.embeds).logits
    return {
        "logits": difference(case.lens.logits(case.prompt), expected),
        "logits with left padding": padded(case),
        "greedy tokens that differ": greedy(case),
    }


def greedy(case: Case) -> float:
    expected = plain(case.name).generate(
        inputs_embeds=case.embeds,
        attention_mask=torch.ones(case.embeds.shape[:2], dtype=torch.long),
        max_new_tokens=N_NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=1,
        bos_token_id=None,
    )
    tokens = transformer.generate(case.lens.model, case.prompt.tokens, max_new_tokens=N_NEW, stop_ids=[])
    return float((tokens[:, case.prompt.tokens.shape[1] :] != expected).sum())


def padded(case: Case) -> float:
    """A batch of two lengths against each row alone."""
    (image,) = (span.image for span in case.prompt.spans[0])
    both = case.lens.interleave([[image, "a red dog"], [image, "a"]], prepend_bos=False)
    logits = case.lens.logits(both)
    found = []
    for i in range(2):
        row = both.row(i)
        embeds = plain(case.name).get_input_embeddings()(row.tokens.masked_fill(row.image_mask, 0)).clone()
        embeds[0, row.image_mask[0]] = image_vectors(case.name)[0].to(embeds)
        with torch.no_grad():
            expected = plain(case.name)(inputs_embeds=embeds).logits[0]
        found.append(difference(logits[i, -len(expected) :], expected))
    return max(found)


@each_family
def test_virtual_tokens_are_inputs_embeds(name):
    assert_exact(measured(case(name)))
