"""Which decoded tokens are English words, and when a neuron counts as interpretable (paper section 2.2)."""

import gzip
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

WORDS_NEEDED = 7
TOKENS_CHECKED = 10
"""A neuron is interpretable if at least 7 of its 10 top tokens are words."""
LETTERS_NEEDED = 3
"""Letters that a whole word must have."""

SPACES = " Ġ▁"
"""The space before a word, as tokenizers write it."""
WORD_BEGINS = tuple(SPACES)


def is_interpretable(tokens: Sequence[str]) -> bool:
    """Whether at least 7 of the first 10 tokens are English words: the paper's rule.

    The rule is generous: pieces of words such as "ing" and short words such as "to" count. `writes_whole_words` is
    stricter.

    Args: tokens: decoded tokens, best first; later ones are ignored.
    Raises: ValueError for fewer than 10 tokens.
    """
    return sum(map(is_word, _checked(tokens))) >= WORDS_NEEDED


def writes_whole_words(tokens: Sequence[str]) -> bool:
    """Whether at least 7 of the first 10 tokens begin a word and are English words of three letters or more.

    Not the paper's rule. Args, Raises: as `is_interpretable`.

    >>> writes_whole_words([" dog", " dogs", " puppy", " hound", " leash", " barking", " Cat", "s", " to", "ing"])
    True
    >>> writes_whole_words(["dog", " dogs", " puppy", " hound", " leash", " barking", "ate", "s", " to", "ing"])
    False
    """
    return sum(map(_is_whole_word, _checked(tokens))) >= WORDS_NEEDED


def _checked(tokens: Sequence[str]) -> Sequence[str]:
    if len(tokens) < TOKENS_CHECKED:
        raise ValueError(
            f"expected the {TOKENS_CHECKED} top tokens of a neuron, got {len(tokens)}; decode with top_k=10"
        )
    return tokens[:TOKENS_CHECKED]


def _is_whole_word(token: str) -> bool:
    return token.startswith(WORD_BEGINS) and is_word(token) and len(token.lstrip(SPACES)) >= LETTERS_NEEDED


def is_word(token: str) -> bool:
    """Whether a token is an English word by itself, whatever its case and with or without the space before it.

    The paper used NLTK's word corpus; here it is the packaged list (`words/README.md`): letters a to z only, at least
    two of them, inflected forms and names included. Pieces of words count only if they are words themselves.

    >>> [is_word(token) for token in (" Dog", "Ġdogs", "▁dog", " dogg", "s", " 12", "a")]
    [True, True, True, False, False, False, False]
    """
    return token.lstrip(SPACES).lower() in english_words()


@cache
def english_words() -> frozenset[str]:
    """The packaged word list, lower case."""
    packed = files("lens_multimodal.analysis.decoding").joinpath("words", "english.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode("ascii").split())
