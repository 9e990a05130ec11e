"""A real byte-level BPE tokenizer with the 97 tokens and the special ids of the random language models."""

from pathlib import Path
from string import ascii_lowercase

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models import D_VOCAB, LAYOUTS

SPECIAL = ["<|endoftext|>", "<one>", "<two>"]
WORDS = ["picture", "of", "dog", "cat", "red", "sun", "a", "and", "is"]
"""One token each behind a space."""


def make_tokenizer(folder: Path, layout: str = "gpt-j") -> PreTrainedTokenizerFast:
    """Saved to a folder and loaded from it: TransformerLens cannot take one that was never saved."""
    bpe = byte_level([*SPECIAL, "Ġ", "Ċ", "A", ".", ",", *ascii_lowercase], WORDS, size=D_VOCAB)
    config = LAYOUTS[layout]
    special = {
        f"{role}_token": SPECIAL[i]
        for role in ("bos", "eos", "pad")
        if (i := getattr(config, f"{role}_token_id")) is not None
    }
    PreTrainedTokenizerFast(tokenizer_object=bpe, **special).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def byte_level(letters: list[str], words: list[str], *, size: int) -> Tokenizer:
    """Words with a leading space are one token each; letters are tokens; the rest is filler."""
    pieces, merges = list(letters), []
    for word in words:
        done = "Ġ"
        for letter in word:
            if done + letter not in pieces:
                pieces.append(done + letter)
                merges.append((done, letter))
            done += letter
    pieces += [f"[{i}]" for i in range(len(pieces), size)]
    bpe = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return bpe
