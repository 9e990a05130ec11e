"""An image is a run of tokens: prompts, logits and captions against plain `transformers`."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lens_multimodal import Sampling, VisionLens
from lens_multimodal.prompt.tokenizer import PromptTokenizer
from lens_multimodal.prompt.virtual_tokens import UnknownImageTokens
from lens_multimodal.transformer.token_ids import LensDetached
from tests.lenses import (
    CASES,
    D_MODEL,
    GRID,
    N_PATCHES,
    assert_different,
    each_case,
    hugging_face,
    inputs_embeds,
    make_lens,
    picture,
    plain_logits,
    random_prompt,
    unchecked,
)
from tests.models import D_VOCAB

# --- logits ------------------------------------------------------------------------------------------------


@each_case
def test_logits_equal_inputs_embeds(lens_of, layout, kind):
    lens = lens_of(layout, kind)
    prompt = random_prompt(lens, [6, -4], [-2, 6, -2], [-1, 3, -3, 3], seed=1)
    plain = torch.stack(plain_logits(hugging_face(layout), prompt))
    with torch.no_grad():
        through_tokens, cache = lens.model.run_with_cache(prompt.tokens)
    # Largest logits are near ten: 1e-5 of that.
    torch.testing.assert_close(through_tokens, plain, rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(lens.logits(prompt).detach(), plain, rtol=1e-5, atol=5e-5)
    assert torch.equal(cache["hook_embed"], inputs_embeds(hugging_face(layout), prompt))
    other = random_prompt(lens, [6, -4], [-2, 6, -2], [-1, 3, -3, 3], seed=2)
    assert_different(lens.logits(other).detach(), plain)


@each_case
def test_in_double_precision_nothing_but_rounding_is_left(lens_of, layout, kind):
    lens = lens_of(layout, kind, torch.float64)
    prompt = random_prompt(lens, [6, -4, 2])
    (plain,) = plain_logits(hugging_face(layout, torch.float64), prompt)
    # Where Hugging Face and TransformerLens round differently, because some step is float32 in any precision.
    tolerance = 2e-5 if layout in ("pythia", "llama") else 2e-6 if kind == "hooked" else 1e-9
    torch.testing.assert_close(lens.logits(prompt)[0].detach(), plain, rtol=0, atol=tolerance)


@each_case
def test_left_padded_batch_equals_single_rows(lens_of, layout, kind):
    lens = lens_of(layout, kind)
    prompt = random_prompt(lens, [6, -4], [-1, 3], [2, -3, 6, -2, 1, -1], [-7])
    assert prompt.attention_mask.sum(dim=1).tolist() == [10, 4, 15, 7]
    logits = lens.logits(prompt).detach()
    for row, plain in enumerate(plain_logits(hugging_face(layout), prompt)):
        torch.testing.assert_close(logits[row, -len(plain) :], plain, rtol=1e-5, atol=5e-5)
        torch.testing.assert_close(lens.logits(prompt.row(row))[0].detach(), plain, rtol=1e-5, atol=5e-5)


@each_case
def test_pictures_reach_the_logits(lens_of, layout, kind):
    lens = lens_of(layout, kind)
    prompt = lens.prompt([picture(0), picture(1)], [" a dog", " sun"])
    plain = plain_logits(hugging_face(layout), prompt)
    logits = lens.logits(prompt).detach()
    for row in range(2):
        torch.testing.assert_close(logits[row, -len(plain[row]) :], plain[row], rtol=1e-5, atol=5e-5)
    swapped = lens.logits(lens.prompt([picture(1), picture(0)], [" a dog", " sun"])).detach()
    assert_different(swapped[:, -1], logits[:, -1])


def test_image_before_padding_token_in_text_is_not_masked(lens_of, tokenizers):
    """GPT-J's padding token is its end token, which may occur in a text and is not padding there."""
    for layout, kind in [case for case in CASES if case[0] == "gpt-j"]:
        tokenizer = tokenizers(layout)
        lens = lens_of(layout, kind)
        prompt = lens.interleave([["<|endoftext|><|endoftext|>", picture(0), " dog<|endoftext|>"]])
        (plain,) = plain_logits(hugging_face(layout), prompt)
        sides = [t for t in (lens.tokenizer, lens.model.tokenizer) if t is not None]
        before = [t.padding_side for t in sides]
        try:
            for side in ("left", "right"):
                for t in sides:
                    t.padding_side = side
                torch.testing.assert_close(lens.logits(prompt)[0].detach(), plain, rtol=1e-5, atol=5e-5)
        finally:
            for t, side in zip(sides, before, strict=True):
                t.padding_side = side
        assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0


# --- prompts -----------------------------------------------------------------------------------------------


def test_prompt_says_where_everything_is(lens):
    prompt = lens.prompt(picture(), " a dog")
    words = lens.text.encode(" a dog")
    assert prompt.tokens.shape == (1, N_PATCHES + 2)
    assert (prompt.tokens[0, :N_PATCHES] >= D_VOCAB).all()
    assert prompt.tokens[0, N_PATCHES:].tolist() == words
    assert prompt.image_pos.tolist() == [list(range(N_PATCHES))]
    assert prompt.text_pos[0].tolist() == [6, 7]
    assert prompt.grid == GRID
    assert prompt.attention_mask.tolist() == [[1] * 8]
    assert prompt.spans[0][0].image.picture.size == (30, 20)
    assert prompt.last_pos == 7


def test_beginning_of_sequence_follows_the_tokenizer(lens_of):
    starts = {layout: lens_of(layout, kind).prompt(picture()).tokens[0, 0].item() for layout, kind in CASES}
    assert starts["llama"] == 1
    assert starts["opt"] == 2
    assert all(starts[layout] >= D_VOCAB for layout in ("gpt-j", "gpt-2", "pythia"))


def test_beginning_of_sequence_can_be_chosen(lens_of):
    assert lens_of("gpt-j", "bridge").prompt(picture(), prepend_bos=True).tokens[0, 0] == 0
    assert lens_of("llama", "bridge").prompt(picture(), prepend_bos=False).tokens[0, 0] >= D_VOCAB
    forced = lens_of("llama", "bridge").prompt_from_vectors(torch.randn(1, 2, D_MODEL), prepend_bos=True)
    assert forced.tokens[0, 0] == 1
    assert forced.spans[0][0].start == 1


def test_beginning_of_sequence_that_the_tokenizer_lacks(tokenizers):
    lens = make_lens("gpt-j", "bridge")
    words = type(tokenizers("gpt-j")).from_pretrained(tokenizers("gpt-j").name_or_path, bos_token=None)
    lens.text = PromptTokenizer(words, lens.model)
    with pytest.raises(ValueError, match=r"prepend_bos=False"):
        lens.prompt(picture(), prepend_bos=True)


def test_several_images_and_words_in_one_row(lens):
    first, second = lens.embed([picture(0), picture(1)])
    prompt = lens.interleave([[first, " and", second, " dog"], [" a", first]])
    one, two = prompt.spans[0]
    assert (one.start, one.stop, two.start, two.stop) == (0, 6, 7, 13)
    assert one.image is first
    assert two.image is second
    assert prompt.spans[1][0].start == 14 - 6
    names = lens.to_str_tokens(prompt.row(0))
    image = [f"<image:{row},{col}>" for row in range(2) for col in range(3)]
    assert names == [*image, " and", *image, " dog"]
    assert lens.to_str_tokens(prompt.row(-1)) == [" a", *image]
    assert lens.to_str_tokens(prompt.tokens[1, 6:]) == ["<|endoftext|>", " a", *["<image>"] * 6]


def test_to_str_tokens_is_for_one_row(lens):
    with pytest.raises(ValueError, match=r"\b2 \(prompt\.row\(i\)\)"):
        lens.to_str_tokens(lens.prompt([picture(0), picture(1)]))


def test_interleaved_paths_are_pictures_and_strings_are_text(lens, tmp_path):
    picture(3).save(tmp_path / "dog.png")
    prompt = lens.interleave([[tmp_path / "dog.png", " dog"]])
    expected = lens.prompt(picture(3), " dog")
    assert torch.equal(lens.logits(prompt), lens.logits(expected))


def test_every_kind_of_picture_gives_the_same_caption(lens, tmp_path):
    image = picture(4)
    image.save(tmp_path / "four.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy())
    expected = lens.caption(image)
    assert isinstance(expected, str)
    same = [tmp_path / "four.png", str(tmp_path / "four.png"), array, tensor, tensor.movedim(-1, 0), tensor / 255]
    assert [lens.caption(one) for one in same] == [expected] * len(same)
    assert lens.caption(same) == [expected] * len(same)
    assert lens.caption(tuple(same[:2])) == [expected] * 2
    assert lens.caption(np.stack([array, array])) == [expected] * 2
    assert lens.caption(torch.stack([tensor, tensor])) == [expected] * 2
    for one in same:
        assert list(lens.caption_stream(one)) == [expected]
    assert list(lens.caption_stream(np.stack([array, array]))) == [expected] * 2


def test_a_stream_equals_the_list_and_is_read_as_it_goes(lens):
    images = [picture(seed) for seed in range(7)]
    expected = [lens.caption(image) for image in images]
    assert len(set(expected)) > 4
    read = []

    def source():
        for index, image in enumerate(images):
            read.append(index)
            yield image

    stream = lens.caption_stream(source(), batch_size=3)
    assert next(stream) == expected[0]
    assert read == [0, 1, 2]
    assert list(stream) == expected[1:]
    assert lens.caption(images) == expected
    assert list(lens.caption_stream([])) == []


def test_progress_is_shown_when_asked(lens, capfd):
    list(lens.caption_stream([picture(0)] * 3, progress=False))
    assert capfd.readouterr().err == ""
    list(lens.caption_stream([picture(0)] * 3, batch_size=1, progress=True))
    assert "captions" in capfd.readouterr().err


def test_caption_is_the_text_up_to_a_new_line_or_the_end(lens_of):
    for layout in ("gpt-j", "llama"):
        lens = lens_of(layout, "bridge")
        captions = lens.caption([picture(seed) for seed in range(12)], max_new_tokens=15)
        assert not any("\n" in text or "<|endoftext|>" in text or text != text.strip() for text in captions)
        assert len(set(captions)) > 6
        assert lens.text.stop_ids == [0, lens.text.encode("\n")[0]]


def test_new_line_unknown_to_the_tokenizer_is_no_stop():
    words = Tokenizer(models.WordLevel({"<end>": 0, "<unknown>": 1, "dog": 2}, unk_token="<unknown>"))
    lens = make_lens("gpt-j", "bridge")
    lens.text = PromptTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unknown>"), lens.model
    )
    assert lens.text.encode("\n") == [1]
    assert lens.text.stop_ids == [0]


# --- what goes wrong ---------------------------------------------------------------------------------------


def test_no_pictures(lens):
    for nothing in ([], (), np.zeros((0, 4, 4, 3), dtype=np.uint8)):
        with pytest.raises(ValueError, match="picture"):
            lens.prompt(nothing)
        with pytest.raises(ValueError, match="picture"):
            lens.caption(nothing)


def test_texts_and_images_that_do_not_pair(lens):
    with pytest.raises(ValueError, match=r"\b2 images.* 3 texts"):
        lens.prompt([picture(0), picture(1)], ["a", "b", "c"])
    with pytest.raises(ValueError, match="row 1 "):
        lens.interleave([[" dog"], [""]])
    with pytest.raises(ValueError, match=r"row$"):
        lens.interleave([])
    with pytest.raises(ValueError, match=r"batch_size.* 0$"):
        list(lens.caption_stream([picture(0)], batch_size=0))


def test_prompt_longer_than_the_context(lens):
    with pytest.raises(ValueError, match=r"\b66 positions.* 64\b"):
        lens.interleave([[picture(0)] * 11])
    exactly = lens.interleave([[*[picture(0)] * 10, " dog dog dog dog"]])
    assert exactly.tokens.shape[1] == 64
    assert torch.isfinite(lens.logits(exactly)).all()
    with pytest.raises(ValueError, match=r"\b64 positions.* 1 new .* 64\b.*max_new_tokens"):
        lens.generate(exactly, max_new_tokens=1)


def test_vectors_that_cannot_be_a_prompt(lens):
    with pytest.raises(ValueError, match=r"\[batch, pos, d_model=24\].* \[2, 24\]$"):
        unchecked(VisionLens.prompt_from_vectors)(lens, torch.randn(2, D_MODEL))
    with pytest.raises(ValueError, match=r"\b2 x 2 .* 6 vectors"):
        lens.prompt_from_vectors(torch.randn(1, 6, D_MODEL), grid=(2, 2))
    with pytest.raises(ValueError, match="NaN"):
        lens.prompt_from_vectors(torch.full((1, 6, D_MODEL), torch.nan))
    assert lens.prompt_from_vectors(torch.randn(1, 6, D_MODEL)).grid == GRID
    assert lens.prompt_from_vectors(torch.randn(1, 5, D_MODEL)).grid == (1, 5)


def test_words_of_more_than_one_token(lens):
    assert lens.text.token_id(" dog") == lens.text.encode(" dog")[0]
    with pytest.raises(ValueError, match=r"'dog' is 3 tokens.*'d', 'o', 'g'.*' dog'"):
        lens.text.token_id("dog")


def test_prompt_before_takes_every_form_of_a_token(lens):
    said = lens.caption(picture())
    ids = lens.text.encode(f" {said}")
    expected = lens.prompt_before(picture(), ids[-1]).tokens
    for word in (lens.text.token(ids[-1]), np.int64(ids[-1]), torch.tensor(ids[-1])):
        assert torch.equal(lens.prompt_before(picture(), word).tokens[:, N_PATCHES:], expected[:, N_PATCHES:])
    for word in (-1, 999, 1.5, True, "dog"):
        with pytest.raises((ValueError, TypeError), match="word"):
            unchecked(VisionLens.prompt_before)(lens, picture(), word)


def test_model_without_a_tokenizer():
    lens = make_lens("gpt-j", "bridge")
    for call in (lambda: lens.prompt(picture()), lambda: lens.caption(picture())):
        with pytest.raises(ValueError, match=r"attach_vision\(\.\.\., tokenizer=\.\.\.\)"):
            call()
    prompt = lens.prompt(picture(), "")
    assert prompt.tokens.shape == (1, N_PATCHES)
    assert lens.text.stop_ids == [0]  # the model's own
    assert len(lens.generate_ids(prompt, max_new_tokens=3)[0]) <= 3


def test_forgotten_images_are_unknown(lens):
    kept, gone = lens.prompt(picture(0)), lens.prompt(picture(1))
    lens.forget(gone)
    with pytest.raises(UnknownImageTokens, match="forgotten"):
        lens.logits(gone)
    lens.logits(kept)
    lens.forget()
    with pytest.raises(UnknownImageTokens):
        lens.logits(kept)
    assert len(lens.virtual_tokens) == 0


def test_repr_tells_what_there_is(lens):
    text = repr(lens)
    for part in ("TransformerBridge", "3 layers", "d_model=24", "120 neurons", "2 x 3", "d_vision=10", "none"):
        assert part in text


def test_after_a_with_block_the_lens_is_detached(tokenizers):
    with make_lens("gpt-j", "bridge", tokenizer=tokenizers("gpt-j")) as lens:
        prompt = lens.prompt(picture())
        lens.logits(prompt)
    with pytest.raises(LensDetached, match=r"attach_vision\(lens\.model"):
        lens.logits(prompt)
    with pytest.raises(RuntimeError, match=r"detached.*attach_vision\(\.\.\.\) again"):
        lens.prompt(picture())


def test_sampling_by_seed(lens):
    prompt = lens.prompt([picture(seed) for seed in range(4)])

    def sample(seed: int, **settings):
        torch.manual_seed(seed)
        return lens.generate(prompt, sampling=Sampling(do_sample=True, **settings), max_new_tokens=10)

    assert sample(1) == sample(1)
    assert sample(1, top_k=5, temperature=2.0) == sample(1, top_k=5, temperature=2.0)
    assert len({tuple(sample(seed, temperature=3.0)) for seed in range(4)}) > 2
    greedy = lens.generate(prompt, max_new_tokens=10)
    assert sample(3, top_k=1) == greedy
    assert sample(3, top_p=1e-6) == greedy
