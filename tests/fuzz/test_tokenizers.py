"""Any tokenizer: at most one start token, captions of one line, and no word after them is explained."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_multimodal import VisionLens
from lens_multimodal.prompt.tokenizer import PromptTokenizer
from tests.fuzz.odd_tokenizers import end_tokens, odd_tokenizers
from tests.lenses import picture

texts = st.text(st.sampled_from("abcdghot .\n"), max_size=12)


@pytest.fixture
def under(lens: VisionLens):
    """The lens with another tokenizer and other generation settings, for one case."""
    own, settings = lens.tokenizer, lens.model.original_model.generation_config
    said = settings.eos_token_id

    def use(tokenizer, ends) -> VisionLens:
        settings.eos_token_id = ends
        lens.tokenizer, lens.text = tokenizer, PromptTokenizer(tokenizer, lens.model)
        return lens

    yield use
    settings.eos_token_id = said
    lens.tokenizer, lens.text = own, PromptTokenizer(own, lens.model)


@given(odd_tokenizers(), end_tokens, texts, st.sampled_from([None, None, True, False]))
def test_prompts_and_captions(attempt, under, tokenizer, ends, text, prepend_bos):
    lens = under(tokenizer, ends)
    bos = tokenizer.bos_token or ""
    for written in (text, bos + text):
        prompt = attempt(lambda w=written: lens.prompt(picture(), w, prepend_bos=prepend_bos), lens)
        if prompt is None:
            continue
        start = lens.text.start_ids(prepend_bos)
        ids = prompt.tokens[0].tolist()
        assert ids[: len(start)] == start
        assert ids[len(start) : 2 * len(start)] != start or not start
        assert int(prompt.image_mask.sum()) == lens.vision.n_patches
        (said,) = lens.generate_ids(prompt, max_new_tokens=6)
        caption = lens.text.caption(said)
        assert "\n" not in caption
        assert not set(said) & set(lens.text.end_ids)
        assert lens.text.first_line(said) == said
        assert "\n" not in lens.text.decode(said[:-1])
        assert 0 <= lens.text.pad_id < lens.shape.d_vocab
        lens.forget(prompt)


@given(odd_tokenizers(), end_tokens, st.lists(st.integers(0, 30), max_size=12))
def test_the_first_line_of_any_ids(under, tokenizer, ends, ids):
    text = under(tokenizer, ends).text
    ids = [i for i in ids if i < len(tokenizer)]
    line = text.first_line(ids)
    assert line == ids[: len(line)]
    until = next((n for n, i in enumerate(ids) if i in text.end_ids), len(ids))
    assert text.caption(line) == text.caption(ids[:until])
    assert text.first_line(line) == line
    assert set(text.last_ids) <= set(text.stop_ids)
    assert all("\n" in text.token(i) for i in text.last_ids)
