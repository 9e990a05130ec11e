"""A real byte-level BPE tokenizer of the random models' 97 tokens."""

from pathlib import Path
from string import ascii_lowercase

from transformers import PreTrainedTokenizerFast

from tests.models import D_VOCAB
from tests.tokenizers import byte_level

END = "<|endoftext|>"
WORDS = ["dog", "cat", "sun", "tree", "red", "boat", "fish", "sea", "hat", "big", "cup", "key", "oak"]


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Words with a leading space are one token each; letters are tokens; the rest is filler."""
    bpe = byte_level([END, "Ġ", *ascii_lowercase], WORDS, size=D_VOCAB - 1)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)
