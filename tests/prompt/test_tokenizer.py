"""Text to ids and back, what stands first, and the one rule for where a caption ends."""

import copy

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lens_multimodal.prompt.tokenizer import PromptTokenizer
from tests.lenses import make_lens, picture
from tests.models import D_VOCAB, random_language_model, wrapped_model
from tests.tokenizers import byte_fallback_tokenizer, make_tokenizer, put_before


def merged_line_ends(**special: str) -> PreTrainedTokenizerFast:
    """Has ".\\n\\n" as one token, as Llama 3 does."""
    pieces = ["<end>", "Ġ", ".", "Ċ", *"abcdgot", "ĊĊ", ".ĊĊ", "ĠĊ"]
    merges = [("Ċ", "Ċ"), (".", "ĊĊ"), ("Ġ", "Ċ")]
    bpe = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **{"eos_token": "<end>", **special})


@pytest.fixture(scope="module")
def merged() -> PromptTokenizer:
    return PromptTokenizer(merged_line_ends())


@pytest.fixture(scope="module")
def bytes_() -> PromptTokenizer:
    return PromptTokenizer(byte_fallback_tokenizer(["dog", "cat", "A"]))


# --- where a caption ends -------------------------------------------------------------------------------


def test_generation_stops_at_every_token_that_holds_a_new_line(merged, bytes_):
    texts = {i: merged.token(i) for i in merged.stop_ids}
    assert sorted(texts.values()) == sorted(["<end>", "\n", "\n\n", ".\n\n", " \n"])
    assert [texts[i] for i in merged.last_ids] == [".\n\n"]
    assert [bytes_.token(i) for i in bytes_.stop_ids] == ["</s>", "\n"]
    assert bytes_.last_ids == []


def test_the_caption_ends_with_its_first_line(merged):
    ids = merged.encode(" a dog.\n\n a cat")
    assert merged.caption(ids) == "a dog."
    first = merged.first_line(ids)
    assert first == ids[: len(merged.encode(" a dog.\n\n"))]
    assert merged.caption(first) == merged.caption(ids)
    assert merged.first_line(merged.encode(" a dog")) == merged.encode(" a dog")
    assert merged.caption([]) == ""
    assert merged.first_line([]) == []


def test_a_token_that_only_ends_the_line_is_no_part_of_it(merged, bytes_):
    for text in (merged, bytes_):
        for end in ("\n", " \n" if text is merged else "\n"):
            assert text.first_line(text.encode(f"dog{end}cat")) == text.encode("dog")
        assert text.first_line([*text.encode("dog"), text.end_ids[0], *text.encode("cat")]) == text.encode("dog")


def test_special_tokens_are_no_part_of_a_caption(merged):
    assert merged.caption([*merged.encode(" a dog "), 0]) == "a dog"


def test_a_new_line_among_added_tokens_ends_generation():
    tokenizer = merged_line_ends()
    tokenizer.add_tokens([AddedToken("!\n"), AddedToken("<turn>\n", special=True)])
    text = PromptTokenizer(tokenizer)
    said, turn = tokenizer.convert_tokens_to_ids(["!\n", "<turn>\n"])
    assert {said, turn} <= set(text.stop_ids)
    assert said in text.last_ids
    assert text.caption(text.first_line([*text.encode("a dog"), said, *text.encode("cat")])) == "a dog!"


# --- what stands first ----------------------------------------------------------------------------------


def test_what_the_tokenizer_puts_before_a_text_stands_first():
    plain = merged_line_ends(bos_token="<end>")
    assert PromptTokenizer(plain).start_ids() == []
    assert PromptTokenizer(plain).start_ids(True) == [0]
    assert PromptTokenizer(plain).start_ids(False) == []

    adds = merged_line_ends(bos_token="a")  # any token will do
    bos = adds.bos_token_id
    adds.backend_tokenizer.post_processor = put_before("a", bos)
    assert adds("")["input_ids"] == [bos]
    assert PromptTokenizer(adds).start_ids() == PromptTokenizer(adds).start_ids(True) == [bos]
    assert PromptTokenizer(adds).start_ids(False) == []


def test_tokens_at_both_ends_and_several_at_the_start():
    """An end token after the text is not one that a prompt begins with; GLM begins with two."""
    tokenizer = merged_line_ends(bos_token="a")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="a b $A <end>", special_tokens=[("a", 4), ("b", 5), ("<end>", 0)]
    )
    assert tokenizer("")["input_ids"] == [4, 5, 0]
    assert PromptTokenizer(tokenizer).start_ids() == [4, 5]


def test_bos_that_the_tokenizer_lacks():
    text = PromptTokenizer(merged_line_ends())
    assert text.start_ids() == []
    with pytest.raises(ValueError, match="prepend_bos=False"):
        text.start_ids(True)
    assert PromptTokenizer(None).start_ids() == []
    with pytest.raises(ValueError, match="tokenizer="):
        PromptTokenizer(None).start_ids(True)


@pytest.mark.parametrize("layout", ["gpt-j", "llama"])
def test_bos_that_transformer_lens_made_the_tokenizer_add_does_not_count(layout, tmp_path):
    """TransformerLens loads every tokenizer again with `add_bos_token=True`; the files say what the model reads."""
    own = make_tokenizer(tmp_path, layout)
    expected = own("")["input_ids"]
    assert expected == {"gpt-j": [], "llama": [1]}[layout]
    loaded = AutoTokenizer.from_pretrained(tmp_path, add_bos_token=True)
    assert loaded("")["input_ids"] == [own.bos_token_id]
    model = wrapped_model("bridge", random_language_model(layout), tokenizer=loaded)
    assert PromptTokenizer(model.tokenizer, model).start_ids() == expected
    # A user's own tokenizer is taken at its word.
    assert PromptTokenizer(loaded, None).start_ids() == [own.bos_token_id]


@pytest.mark.parametrize("layout", ["gpt-j", "llama"])
def test_one_bos_at_the_front_however_the_text_begins(layout, lens_of):
    lens = lens_of(layout)
    bos, image = lens.tokenizer.bos_token, picture()
    n_image = len(lens.embed([image])[0])
    own = lens.text.start_ids()
    rows = [
        [[f"{bos} a dog", image]],
        [[image, f"{bos} a dog"]],
        [["", image, f"{bos} a dog"]],
    ]
    for row in rows:
        for prepend_bos, front in ((None, own), (True, [lens.tokenizer.bos_token_id])):
            prompt = lens.interleave(row, prepend_bos=prepend_bos)
            ids = prompt.tokens[0].tolist()
            assert ids.count(lens.tokenizer.bos_token_id) == 1
            assert ids[: len(front)] == front
            assert len(ids) == n_image + 1 + len(lens.text.encode(" a dog"))
            assert prompt.image_mask.sum() == n_image
            (span,) = prompt.spans[0]
            assert ids[span.start : span.stop] == span.image.soft_prompt.ids.tolist()
    untouched = lens.interleave([[image, f"{bos} a dog"]], prepend_bos=False).tokens[0].tolist()
    assert untouched[n_image:] == [lens.tokenizer.bos_token_id, *lens.text.encode(" a dog")]


def test_a_chat_template_that_begins_with_bos(lens_of):
    lens = lens_of("llama")
    chat = copy.deepcopy(lens.tokenizer)
    chat.chat_template = "{{ bos_token }}{% for m in messages %} {{ m.content }}{% endfor %}"
    text = chat.apply_chat_template([{"role": "user", "content": "a dog"}], tokenize=False)
    with_template, without = lens.prompt([picture()] * 2, [text, " a dog"]).tokens.tolist()
    n_image = len(lens.embed([picture()])[0])
    assert with_template[0] == without[0] == lens.tokenizer.bos_token_id
    assert with_template[1 + n_image :] == without[1 + n_image :]


# --- ids outside the vocabulary -------------------------------------------------------------------------


def test_padding_is_a_word_of_the_model(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "<pad beyond>"})
    assert tokenizer.pad_token_id >= D_VOCAB
    lens = make_lens("gpt-j", "bridge", tokenizer=tokenizer)
    prompt = lens.prompt([picture(0), picture(1)], [" a", " a red dog"])
    assert 0 <= lens.text.pad_id < D_VOCAB
    assert prompt.tokens[0, 0] == lens.text.pad_id
    alone = lens.prompt(picture(0), " a")
    batch, single = lens.logits(prompt)[0, -1], lens.logits(alone)[0, -1]
    assert (batch - single).abs().max() < 1e-4


def test_a_tokenizer_without_padding_or_end():
    bare = merged_line_ends(eos_token=None)
    text = PromptTokenizer(bare)
    assert text.pad_id == 0
    assert text.end_ids == []
    assert len(text.stop_ids) == 4


def test_words_that_the_model_does_not_have(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.add_tokens(["<beyond>"])
    lens = make_lens("gpt-j", "bridge", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=f"<beyond>.*{D_VOCAB}.*{D_VOCAB - 1}"):
        lens.prompt(picture(), " a <beyond>")
