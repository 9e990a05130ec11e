"""A real byte-level BPE tokenizer with the 97 tokens and the special ids of the random language models."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models import D_VOCAB, LAYOUTS

SPECIAL = ["<|endoftext|>", "<one>", "<two>"]
SENTENCE_WORDS = ["picture", "of", "dog", "cat", "red", "sun", "a", "and", "is"]
WORDS = ["dog", "cat", "sun", "tree", "red", "boat", "fish", "sea", "hat", "big", "cup", "key", "oak"]
"""One token each behind a space, as the words of sentences."""


def make_tokenizer(folder: Path, layout: str = "gpt-j") -> PreTrainedTokenizerFast:
    """Words and signs of captions, with a layout's own special tokens."""
    config = LAYOUTS[layout]
    special = {
        f"{role}_token": SPECIAL[i]
        for role in ("bos", "eos", "pad")
        if (i := getattr(config, f"{role}_token_id")) is not None
    }
    return _saved(folder, [*SPECIAL, "Ġ", "Ċ", "A", ".", ","], SENTENCE_WORDS, special)


def word_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """More words and no signs; the end of the text is the only special token.

    The model's last id has no piece here, as in checkpoints that pad their vocabulary.
    """
    return _saved(folder, ["<|endoftext|>", "Ġ"], WORDS, {"eos_token": "<|endoftext|>"}, size=D_VOCAB - 1)


def _saved(
    folder: Path, first: list[str], words: list[str], special: dict[str, str], *, size: int = D_VOCAB
) -> PreTrainedTokenizerFast:
    """Saved to a folder and loaded from it: TransformerLens cannot take one that was never saved.

    The letters are tokens; words with a leading space are one token each; the rest is filler.
    """
    pieces = [*first, *"abcdefghijklmnopqrstuvwxyz"]
    merges = []
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
    PreTrainedTokenizerFast(tokenizer_object=bpe, **special).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)
