"""Any decoder: it is refused with an error and left as it was, or its numbers are those of plain transformers."""

import copy

import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_multimodal import attach_vision, decode_neurons
from lens_multimodal.analysis import logit_lens, neuron_attribution
from tests.fuzz.odd_decoders import odd_decoders
from tests.lenses import encoder, linear
from tests.module_state import assert_as_before, state_of


@given(odd_decoders(), st.integers(0, 99))
def test_decoders(attempt, model, seed):
    plain, before = copy.deepcopy(model).eval(), state_of(model)
    d_model, dtype = model.config.hidden_size, model.dtype
    parts = {"vision": encoder(dtype), "projection": linear(d_model=d_model, dtype=dtype)}
    lens = attempt(lambda: attach_vision(model, **parts))
    if lens is None:
        assert_as_before(model, before)
        return
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(1, 5, d_model, generator=generator).to(dtype)
    words = [7, 50, 3]
    prompt = lens.prompt_from_vectors(vectors, "").followed_by(words)
    rounded, exact = _plain_logits(plain, vectors, words), _plain_logits(plain.double(), vectors.double(), words)
    allowed = 1e-4 if dtype == torch.float32 else 0.05 + 3 * _error(rounded, exact)
    logits = lens.logits(prompt)[0, -1].detach().double()
    assert _error(logits, exact) < allowed, f"{dtype}: {_error(logits, exact):.1%}"
    token = int(exact.argmax())
    depths = logit_lens(lens.model, prompt.tokens, token, [-1])
    with_it = exact.index_fill(0, torch.tensor([token]), float(depths.logit[0, -1, 0]))
    assert _error(with_it, exact) < allowed, f"{dtype}: {_error(with_it, exact):.1%}"
    direct = neuron_attribution(lens.model, prompt.tokens, token, [-1], score="direct_effect")
    assert bool(direct.isfinite().all())
    assert len(decode_neurons(lens.model, [(0, 0)], top_k=5)["token_ids"][0]) == 5
    lens.detach()


def _plain_logits(model, vectors, words):
    with torch.no_grad():
        embedded = torch.cat([vectors, model.get_input_embeddings()(torch.tensor([words]))], dim=1)
        return model(inputs_embeds=embedded).logits[0, -1].double()


def _error(actual, exact):
    return float((actual - exact).norm() / exact.norm())
