import pytest

from lens_multimodal.analysis import is_interpretable, is_word, writes_whole_words
from lens_multimodal.analysis.decoding.dictionary import english_words

WORDS = [" swimming", " swim", " fishes", "Water", " Aqua", " dogs", " London", " and"]
NO_WORDS = ["ĠÂ", "<|endoftext|>", " 12", "s", " swimm", "", " don't"]


@pytest.mark.parametrize("token", WORDS)
def test_words(token):
    assert is_word(token)


@pytest.mark.parametrize("token", [*NO_WORDS, " qzx", "\n", "-"])
def test_no_words(token):
    assert not is_word(token)


def test_seven_of_ten():
    assert is_interpretable([*WORDS[:7], *NO_WORDS[:3]])
    assert not is_interpretable([*WORDS[:6], *NO_WORDS[:4]])
    assert not is_interpretable([*WORDS[:6], *NO_WORDS[:4], *WORDS])


def test_fewer_than_ten_tokens_are_refused():
    with pytest.raises(ValueError, match=r"\b10 top tokens.* 9\b"):
        is_interpretable([" dog"] * 9)


PIECES = [" ants", "ates", "ous", "ung", "ground", "ph", "pill", "king", "ing", "ness"]
LITTLE = [" to", " a", " in", " of", " it", " at", " by", " on", " as", " or"]


@pytest.mark.parametrize("tokens", [PIECES, LITTLE])
def test_pieces_and_little_words_are_no_whole_words(tokens):
    assert sum(map(is_word, tokens)) >= 5
    assert not writes_whole_words(tokens)


@pytest.mark.parametrize("space", [" ", "\u0120", "\u2581"])
def test_seven_whole_words_of_ten(space):
    whole = [f"{space}{word}" for word in ("dog", "Dogs", "puppy", "leash", "hound", "and", "London")]
    assert writes_whole_words([*whole, *PIECES[1:4]])
    assert not writes_whole_words([*whole[:6], *PIECES[1:5], *whole])
    with pytest.raises(ValueError, match=r"\b10 top tokens.* 7\b"):
        writes_whole_words(whole)


def test_list_is_plain_lower_case_english():
    words = english_words()
    assert len(words) == 73_245
    assert all(word.isascii() and word.isalpha() and word.islower() and len(word) > 1 for word in words)
