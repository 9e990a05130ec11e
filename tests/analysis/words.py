"""A real byte-level BPE tokenizer of the random models' 97 tokens."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models import D_VOCAB

WORDS = ["dog", "cat", "sun", "tree", "red", "boat", "fish", "sea", "hat", "big", "cup", "key", "oak"]


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Words with a leading space are one token each; letters are tokens; the rest is filler."""
    pieces = ["<|endoftext|>", "Ġ", *"abcdefghijklmnopqrstuvwxyz"]
    merges = []
    for word in WORDS:
        done = "Ġ"
        for letter in word:
            if done + letter not in pieces:
                pieces.append(done + letter)
                merges.append((done, letter))
            done += letter
    pieces += [f"[{i}]" for i in range(D_VOCAB - 1 - len(pieces))]
    bpe = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)
