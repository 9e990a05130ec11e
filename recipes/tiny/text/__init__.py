"""Stage `text`: the language model's corpus, part real and part generated, and the cloze test.

No picture, caption of a picture or statistic of scenes enters here.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lens_multimodal.files import write_atomically
from recipes.tiny.settings import Settings
from recipes.tiny.stage import run_once, write_json
from recipes.tiny.text import cloze, grammar, knowledge, real

END = "<|endoftext|>"
SOURCES = {
    "wordnet": (real.wordnet, "wordnet-base"),
    "bible": (real.bible, "sword-text-web"),
    "austen": (real.austen, "r-cran-janeaustenr"),
}
WITHHELD_SHARE = 0.15
"""Share of the nouns' lists of kinds, colours and parts (those with three or more values) that lose one value."""
HELD_OUT_MIN_CHARACTERS = 100
"""Shorter documents (captions) always train: withholding `A picture of a lemon.` would withhold the word."""


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Write `train.txt`, `held_out_real.txt`, `held_out_generated.txt` and `cloze.json`; report the mix in bytes."""
    folder = work / "text"
    return run_once(folder, settings.of("text"), lambda: _make(settings, work, folder))


def read_documents(path: Path) -> list[str]:
    """The documents of a corpus file."""
    return path.read_text(encoding="utf-8").removesuffix(f"\n{END}\n").split(f"\n{END}\n")


def divide(
    sources: dict[str, Iterable[str]], *, share: float, seed: int
) -> tuple[list[str], dict[str, list[str]], dict[str, dict[str, int]]]:
    """Shuffled training documents, distinct held-out documents (`real`, `generated`), and the mix in bytes."""
    train: list[str] = []
    held_out: dict[str, dict[str, None]] = {"real": {}, "generated": {}}
    mix: dict[str, dict[str, int]] = {}
    for name, texts in sources.items():
        sizes = {"documents": 0, "train_bytes": 0, "held_out_bytes": 0}
        for text in tqdm(texts, desc=f"text: {name}", unit=" documents"):
            sizes["documents"] += 1
            if _is_held_out(text, share):
                held_out["generated" if name == "generated" else "real"][text] = None
                sizes["held_out_bytes"] += len(text.encode())
            else:
                train.append(text)
                sizes["train_bytes"] += len(text.encode())
        mix[name] = sizes
    random.Random(f"shuffle {seed}").shuffle(train)
    return train, {name: list(documents) for name, documents in held_out.items()}, mix


def write_documents(path: Path, documents: list[str]) -> None:
    """A corpus file: documents separated by lines that are the end-of-text mark."""
    with write_atomically(path) as partial:
        partial.write_text("".join(f"{document}\n{END}\n" for document in documents), encoding="utf-8")


def _make(settings: Settings, work: Path, folder: Path) -> dict[str, Any]:
    told, withheld = knowledge.withhold(knowledge.load(), share=WITHHELD_SHARE, seed=settings.seed)
    limit = settings.text.real_limit_megabytes
    sources: dict[str, Iterable[str]] = {
        name: _limited(reader(work / "downloads" / package), None if limit is None else int(limit * 1e6))
        for name, (reader, package) in SOURCES.items()
    }
    generated = grammar.documents(told, seed=settings.seed)
    sources["generated"] = _limited(generated, int(settings.text.generated_megabytes * 1e6))

    train, held_out, mix = divide(sources, share=settings.text.held_out_share, seed=settings.seed)
    write_documents(folder / "train.txt", train)
    for name, documents in held_out.items():
        write_documents(folder / f"held_out_{name}.txt", documents)
    items = cloze.items(knowledge.load(), withheld, seed=settings.seed)
    write_json(folder / "cloze.json", items)
    return {
        "mix": mix,
        "distinct_train_documents": len(set(train)),
        "withheld_facts": len(withheld),
        "cloze_items": len(items),
    }


def _limited(documents: Iterable[str], size: int | None) -> Iterator[str]:
    """Documents until their bytes reach `size`."""
    total = 0
    for document in documents:
        if size is not None and total >= size:
            return
        total += len(document.encode())
        yield document


def _is_held_out(document: str, share: float) -> bool:
    """Decided by the text itself, so a document and its copies are always on the same side."""
    draw = int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest(), "big") / 2**64
    return draw < share and len(document) >= HELD_OUT_MIN_CHARACTERS
