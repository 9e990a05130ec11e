"""A lens saved and loaded again gives the same logits, and its language model is one that transformers loads."""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from lens_multimodal import attach_vision, transformer
from tests.decoders.cases import Case, assert_exact, case, difference, each_family
from tests.decoders.plain_models import plain
from tests.lenses import picture


@torch.no_grad()
def measured(case: Case) -> dict[str, float]:
    prompt = case.lens.prompt(picture(), "a red")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "lens"
        case.lens.save_pretrained(folder)
        loaded = attach_vision(folder)
        again = loaded.prompt(picture(), "a red")
        alone = AutoModelForCausalLM.from_pretrained(folder / "language", attn_implementation="eager").eval()
        ours, theirs = case.lens.logits(prompt), loaded.logits(again)
        expected = plain(case.name)(inputs_embeds=case.embeds).logits
        found = {
            "logits of a picture": difference(theirs, ours),
            "the language model alone": difference(alone(inputs_embeds=case.embeds).logits, expected),
        }
        new = [
            transformer.generate(lens.model, row.tokens, max_new_tokens=6, stop_ids=[])[:, row.tokens.shape[1] :]
            for lens, row in ((case.lens, prompt), (loaded, again))
        ]
        return {**found, "greedy tokens that differ": float((new[0] != new[1]).sum())}


@each_family
def test_saved_and_loaded(name):
    assert_exact(measured(case(name)))
