"""A real byte-level BPE tokenizer with the 97 tokens and the special ids of the random language models."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models import D_VOCAB, LAYOUTS

SPECIAL = ["<|endoftext|>", "<one>", "<two>"]
WORDS = ["picture", "of", "dog", "cat", "red", "sun", "a", "and", "is"]
"""One token each behind a space."""


def make_tokenizer(folder: Path, layout: str = "gpt-j") -> PreTrainedTokenizerFast:
    """Saved to a folder and loaded from it: TransformerLens cannot take one that was never saved."""
    pieces = [*SPECIAL, "Ġ", "Ċ", "A", ".", ",", *"abcdefghijklmnopqrstuvwxyz"]
    merges = []
    for word in WORDS:
        done = "Ġ"
        for letter in word:
            if done + letter not in pieces:
                pieces.append(done + letter)
                merges.append((done, letter))
            done += letter
    pieces += [f"[{i}]" for i in range(len(pieces), D_VOCAB)]
    bpe = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    config = LAYOUTS[layout]
    special = {
        f"{role}_token": SPECIAL[i]
        for role in ("bos", "eos", "pad")
        if (i := getattr(config, f"{role}_token_id")) is not None
    }
    PreTrainedTokenizerFast(tokenizer_object=bpe, **special).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)
