"""A real byte-level BPE tokenizer with the 97 tokens and the special ids of the random language models."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.models import D_VOCAB, LAYOUTS

SPECIAL = ["<|endoftext|>", "<one>", "<two>"]
SENTENCE_WORDS = ["picture", "of", "dog", "cat", "red", "sun", "a", "and", "is"]
WORDS = ["dog", "cat", "sun", "tree", "red", "boat", "fish", "sea", "hat", "big", "cup", "key", "oak"]
"""One token each after a space, like the words of sentences."""


def make_tokenizer(folder: Path, layout: str = "gpt-j") -> PreTrainedTokenizerFast:
    """Words and signs of captions, with a layout's own special tokens; Llama's and OPT's put BOS before every text."""
    config = LAYOUTS[layout]
    special = {
        f"{role}_token": SPECIAL[i]
        for role in ("bos", "eos", "pad")
        if (i := getattr(config, f"{role}_token_id")) is not None
    }
    adds_bos = layout in ("llama", "opt")
    return _saved(folder, [*SPECIAL, "Ġ", "Ċ", "A", ".", ","], SENTENCE_WORDS, special, adds_bos=adds_bos)


def word_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """More words and no signs; the end of the text is the only special token.

    The model's last id has no piece here, as in checkpoints that pad their vocabulary.
    """
    return _saved(folder, ["<|endoftext|>", "Ġ"], WORDS, {"eos_token": "<|endoftext|>"}, size=D_VOCAB - 1)


def _saved(
    folder: Path,
    first: list[str],
    words: list[str],
    special: dict[str, str],
    *,
    size: int = D_VOCAB,
    adds_bos: bool = False,
) -> PreTrainedTokenizerFast:
    """Saved to a folder and loaded from it: TransformerLens cannot take one that was never saved.

    The letters are tokens; words with a leading space are one token each; the rest is filler.
    """
    bpe, pieces = byte_level_bpe([*first, *"abcdefghijklmnopqrstuvwxyz"], words, size=size)
    if adds_bos:
        bos = special["bos_token"]
        bpe.post_processor = put_before(bos, pieces.index(bos))
    PreTrainedTokenizerFast(tokenizer_object=bpe, **special).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def byte_level_bpe(first: list[str], words: Sequence[str], *, size: int = D_VOCAB) -> tuple[Tokenizer, list[str]]:
    """A tokenizer with these pieces, words with a leading space as one token each, and filler; and all its pieces."""
    pieces = list(first)
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
    return bpe, pieces


def put_before(token: str, token_id: int) -> processors.TemplateProcessing:
    """The post-processor of a tokenizer that puts a token before every text."""
    return processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, token_id)])


def byte_fallback_tokenizer(words: list[str], **special: str) -> PreTrainedTokenizerFast:
    """As in Llama 2: text that is not a piece becomes bytes, so that a new line is `<0x0A>`."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = []
    for word in words:
        for end in range(1, len(word) + 1):
            piece = f"▁{word}"[: end + 1]
            for part in (piece, piece[-1], "▁"):
                if part not in pieces:
                    pieces.append(part)
            if (piece[:-1], piece[-1]) not in merges:
                merges.append((piece[:-1], piece[-1]))
    bpe = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **{"unk_token": "<unk>", "eos_token": "</s>", **special})
