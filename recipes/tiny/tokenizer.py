"""Stage `tokenizer`: byte-level BPE in which every noun of the knowledge table is one token.

The merges are learned from the training text. Nouns that did not become one token are then repeated in the text that
the merges are learned from, until they do. No token is added by hand, so splitting stays plain BPE.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.tiny.settings import Settings
from recipes.tiny.stage import run_once
from recipes.tiny.text import END, knowledge

SAMPLE_CHARACTERS = 16_000_000
"""The merges are learned from this much of the (shuffled) training text."""
BOOSTS = (0, 300, 1000, 3000)
"""How often each missing noun is repeated, attempt by attempt."""


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Train, check and save `work/tokenizer/`, loadable offline with `AutoTokenizer.from_pretrained`."""
    folder = work / "tokenizer"
    stage = {**settings.of("tokenizer"), "text": settings.of("text")}
    return run_once(folder, stage, lambda: _make(settings, work, folder))


def load(work: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")


def split_nouns(tokenizer: PreTrainedTokenizerFast, nouns: list[str]) -> list[str]:
    """The nouns that, with a leading space, are more than one token."""
    return [noun for noun in nouns if len(tokenizer.encode(f" {noun}", add_special_tokens=False)) != 1]


def train(text: str, nouns: list[str], *, vocab_size: int) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """A tokenizer whose nouns are single tokens wherever the vocabulary's size allows it.

    Returns: the tokenizer, and the nouns that had to be repeated.
    """
    boosted: dict[str, int] = {}
    missing: list[str] = []
    for boost in BOOSTS:
        boosted.update({noun: boost for noun in missing})
        tokenizer = _train(itertools.chain(_lines(text), _repeated(boosted)), vocab_size)
        missing = split_nouns(tokenizer, nouns)
        if not missing:
            break
    return tokenizer, sorted(boosted)


def _make(settings: Settings, work: Path, folder: Path) -> dict[str, Any]:
    with (work / "text" / "train.txt").open(encoding="utf-8") as file:
        text = file.read(SAMPLE_CHARACTERS)
    nouns = [noun.name for noun in knowledge.load()]
    tokenizer, boosted = train(text, nouns, vocab_size=settings.tokenizer.vocab_size)
    missing = split_nouns(tokenizer, nouns)
    if missing and settings.tokenizer.vocab_size >= 4096:
        raise ValueError(
            f"{len(missing)} of {len(nouns)} nouns are not one token, among them {missing[:5]}: "
            "raise Tokenizer.vocab_size in settings.py"
        )
    sample = text[:200_000].replace(END, "")
    assert tokenizer.decode(tokenizer.encode(sample)) == sample, "the tokenizer does not restore its text"
    tokenizer.save_pretrained(folder)
    tokens = len(tokenizer.encode(sample))
    return {
        "vocab_size": len(tokenizer),
        "nouns": len(nouns),
        "single_token_nouns": len(nouns) - len(missing),
        "boosted_nouns": boosted,
        "bytes_per_token": len(sample.encode()) / tokens,
    }


def _train(lines: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1_000_000,
    )


def _lines(text: str) -> Iterator[str]:
    return (line for line in text.split("\n") if line != END)


def _repeated(boosted: dict[str, int]) -> Iterator[str]:
    return (f" {noun}" * count for noun, count in boosted.items())
