"""Text and pictures in any order, lengths, and settings of generation."""

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_multimodal import Sampling
from tests.fuzz import anything
from tests.lenses import picture

piece = anything.mostly(
    anything.texts | st.just(picture()) | anything.good_pixels, anything.pictures, st.just(Path("nowhere.png"))
)
rows = anything.mostly(st.lists(st.lists(piece, min_size=1, max_size=4), min_size=1, max_size=3), anything.odd)


@given(rows, st.sampled_from([None, None, None, True, False]))
def test_any_order(attempt, lens, rows, prepend_bos):
    prompt = attempt(lambda: lens.interleave(rows, prepend_bos=prepend_bos), lens)
    if prompt is not None:
        assert prompt.tokens.shape == prompt.attention_mask.shape
        assert prompt.tokens.shape[1] <= lens.shape.n_ctx
        assert bool((prompt.image_mask.sum(1) % lens.vision.n_patches == 0).all())
        lens.forget(prompt)


@given(st.text(st.characters(), max_size=80))
def test_any_text_comes_back_or_is_refused(attempt, lens, text):
    attempt(lambda: lens.logits(lens.prompt(picture(), text)), lens)
    attempt(lambda: lens.text.token_id(text))
    attempt(lambda: lens.prompt_before(picture(), text, max_new_tokens=2), lens)


@given(
    anything.mostly(st.integers(1, 5), st.integers(-2, 70), anything.odd),
    st.fixed_dictionaries(
        {},
        optional={
            "do_sample": st.booleans(),
            "temperature": anything.mostly(st.floats(0.1, 3), st.floats()),
            "top_k": st.none() | st.integers(-1, 200),
            "top_p": anything.mostly(st.none() | st.floats(0.1, 1), st.floats()),
            "num_beams": st.integers(-1, 3),
        },
    ),
)
def test_generation(attempt, lens, max_new_tokens, settings):
    prompt = lens.prompt(picture(), " dog")
    attempt(
        lambda: lens.generate(prompt, max_new_tokens=max_new_tokens, sampling=Sampling(**settings)),
        lens,
    )
    lens.forget(prompt)


@given(
    anything.mostly(
        st.tuples(st.integers(1, 3), st.integers(1, 40), st.just(24)),
        st.lists(st.integers(0, 30), min_size=3, max_size=3),
        st.lists(st.integers(0, 3), max_size=4),
    ),
    anything.mostly(st.none(), st.tuples(st.integers(-1, 4), st.integers(-1, 4))),
    st.sampled_from([0.0, 1.0, 1.0, 1e30, float("inf"), float("nan")]),
)
def test_vectors_of_any_shape(attempt, lens, shape, grid, value):
    def run():
        prompt = lens.prompt_from_vectors(torch.full(shape, value), " dog", grid=grid)
        return lens.logits(prompt)

    attempt(run, lens)


def test_an_image_that_was_forgotten_is_named(lens):
    prompt = lens.prompt(picture(), " dog")
    lens.forget(prompt)
    with pytest.raises(ValueError, match="image"):
        lens.logits(prompt)


def test_ten_thousand_images_leave_nothing_behind(lens):
    gc.collect()
    before = len(lens.virtual_tokens)
    vectors = torch.zeros(1, lens.vision.n_patches, lens.shape.d_model)
    largest = 0
    for _ in range(10_000):
        lens.prompt_from_vectors(vectors, " dog")
        largest = max(largest, len(lens.virtual_tokens))
    gc.collect()
    assert len(lens.virtual_tokens) <= before + 1  # whatever the model looked at last
    assert largest < before + 1_000
