"""Real text from Debian packages: WordNet glosses, the World English Bible, six novels by Jane Austen.

Each function takes the unpacked package's folder and yields documents, in a fixed order.
"""

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

PARTS_OF_SPEECH = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
NOVEL_PIECE = 3000
"""A novel is cut at paragraphs into documents of about this many characters."""


def wordnet(package: Path) -> Iterator[str]:
    """One document for each of 117,659 meanings: its words, definition, broader word and quoted examples."""
    for name in PARTS_OF_SPEECH:
        lines = [
            line for line in _find(package, f"data.{name}").read_text(encoding="utf-8", errors="replace").splitlines()
            if not line.startswith("  ")
        ]  # fmt: skip
        first_word = {line[:8]: _lemmas(line)[0] for line in lines}
        for line in lines:
            yield _meaning(line, PARTS_OF_SPEECH[name], first_word)


def bible(package: Path) -> Iterator[str]:
    """One document for each chapter, footnotes left out."""
    from pysword.modules import SwordModules

    modules = SwordModules(str(_find(package, "mods.d").parent))
    (key,) = modules.parse_modules()
    text = modules.get_bible_from_module(key)
    for books in text.get_structure().get_books().values():
        for book in books:
            for chapter in range(1, book.num_chapters + 1):
                verses = text.get_iter(books=[book.name], chapters=[chapter], clean=False)
                clean = " ".join(filter(None, map(_verse, verses)))
                if clean:
                    yield f"{book.name} {chapter}\n{clean}"


def austen(package: Path) -> Iterator[str]:
    """The six novels, lines joined into paragraphs, in pieces of about 3,000 characters."""
    import rdata

    index_path = _find(package, "Rdata.rdx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = rdata.conversion.convert(rdata.parser.parse_data(_inflate(index_path.read_bytes())))
        block = index_path.with_suffix(".rdb").read_bytes()
        for start, length in index["variables"].values():
            packed = block[start : start + length]
            (size,) = struct.unpack(">I", packed[:4])
            raw = zlib.decompress(packed[4:])
            assert len(raw) == size
            lines = rdata.conversion.convert(rdata.parser.parse_data(raw))
            yield from _pieces([str(line) for line in lines])


def _find(package: Path, name: str) -> Path:
    found = sorted(package.rglob(name))
    if not found:
        raise FileNotFoundError(
            f"no {name} below {package}: run the stage `fetch` first, or unpack the package there with dpkg -x"
        )
    return found[0]


def _lemmas(line: str) -> list[str]:
    fields = line.split(" ")
    count = int(fields[3], 16)
    return [re.sub(r"\((a|p|ip)\)$", "", fields[4 + 2 * i]).replace("_", " ") for i in range(count)]


def _meaning(line: str, part_of_speech: str, first_word: dict[str, str]) -> str:
    head, _, gloss = line.partition(" | ")
    examples = re.findall(r'"([^"]+)"', gloss)
    definition = re.sub(r'[;:,]?\s*"[^"]*"?', "", gloss).strip(" ;:,")
    text = f"{', '.join(_lemmas(line))} ({part_of_speech}): {definition}."
    broader = re.search(r" @ (\d{8}) n ", head)
    if broader and part_of_speech == "noun":
        text += f" A kind of {first_word[broader.group(1)]}."
    for example in map(str.strip, examples):
        if example:
            end = "" if example[-1] in ".!?" else "."
            text += f" {example[0].upper()}{example[1:]}{end}"
    return text


def _verse(markup: str) -> str:
    markup = re.sub(r"<(note|title|rdg)\b[^>]*?(?<!/)>.*?</\1>", " ", markup, flags=re.DOTALL)
    text = " ".join(re.sub(r"<[^>]+>", "", markup).split())
    return re.sub(r" ([,.;:!?’”)])", r"\1", text)  # noqa: RUF001


def _inflate(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        import gzip

        return gzip.decompress(data)
    return zlib.decompress(data)


def _pieces(lines: list[str]) -> Iterator[str]:
    paragraphs = "\n".join(line.strip() for line in lines).split("\n\n")
    piece: list[str] = []
    for paragraph in (" ".join(p.split()) for p in paragraphs):
        if paragraph:
            piece.append(paragraph)
        if sum(map(len, piece)) >= NOVEL_PIECE:
            yield "\n".join(piece)
            piece = []
    if piece:
        yield "\n".join(piece)
