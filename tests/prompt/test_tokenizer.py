"""Text to ids and back, and the one rule for where a caption ends."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lens_multimodal.prompt.tokenizer import PromptTokenizer


@pytest.fixture(scope="module")
def line_ends() -> PromptTokenizer:
    """Has ".\\n\\n" as one token, as Llama 3 does: generation does not stop there."""
    pieces = ["<end>", "Ġ", ".", "Ċ", *"abcdgot", "ĊĊ", ".ĊĊ"]
    merges = [("Ċ", "Ċ"), (".", "ĊĊ")]
    bpe = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>"))


def test_a_token_that_holds_a_line_end_is_no_stop_token(line_ends):
    ids = line_ends.encode(" a dog.\n\n")
    assert line_ends.token(ids[-1]) == ".\n\n"
    assert ids[-1] not in line_ends.stop_ids
    assert line_ends.stop_ids == [0, *line_ends.encode("\n"), *line_ends.encode("\n\n")]


def test_the_caption_ends_with_its_first_line(line_ends):
    ids = line_ends.encode(" a dog.\n\n a cat")
    assert line_ends.caption(ids) == "a dog."
    first = line_ends.first_line(ids)
    assert first == ids[: len(line_ends.encode(" a dog.\n\n"))]
    assert line_ends.caption(first) == line_ends.caption(ids)
    assert line_ends.first_line(line_ends.encode(" a dog")) == line_ends.encode(" a dog")
    assert line_ends.caption([]) == ""
    assert line_ends.first_line([]) == []


def test_special_tokens_are_no_part_of_a_caption(line_ends):
    assert line_ends.caption([*line_ends.encode(" a dog "), 0]) == "a dog"
