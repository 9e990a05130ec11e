"""A folder of pictures with their captions: in one list, or in a text file beside each picture."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lens_multimodal.data.captioned import CaptionedPicture
from lens_multimodal.files import outside

LISTS = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
"""Names a list of captions may have; the latter two are those of Hugging Face's image folders."""

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def read_folder(folder: str | Path) -> list[CaptionedPicture]:
    """Read a folder of captioned pictures.

    Either one list, `captions.jsonl` or `captions.csv`, with `file_name` (relative to the folder) and `caption`,
    `captions` (JSON only: a list) or `text`; several rows of one picture are several captions. Or beside each
    picture, subfolders included, a `.txt` file of its name with one caption a line.

    Returns:
        The pictures in the order of the list, or of their paths.

    Raises:
        FileNotFoundError: no such folder, pictures that the list names and the folder lacks, or pictures without
            their `.txt`; all are counted and listed.
        ValueError: two lists, a malformed or empty one, one that names a picture outside of the folder, or no picture
            at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {str(folder)!r}")
    lists = [folder / name for name in LISTS if (folder / name).is_file()]
    if len(lists) > 1:
        raise ValueError(
            f"{str(folder)!r} has several lists of captions ({', '.join(p.name for p in lists)}); keep one"
        )
    captions = _listed(folder, lists[0]) if lists else _beside(folder)
    if not captions:
        raise ValueError(
            f"no captioned picture in {str(folder)!r}: expected {' or '.join(LISTS[:2])}, or "
            f"pictures with a .txt beside each"
        )
    return [
        CaptionedPicture(key=name, picture=folder / name, captions=tuple(texts)) for name, texts in captions.items()
    ]


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder and its subfolders, by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())


def _listed(folder: Path, path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for number, row in _rows(path):
        name = row.get("file_name")
        text = next((row[k] for k in ("captions", "caption", "text") if row.get(k)), None)
        texts = text if isinstance(text, list) else [text]
        if not isinstance(name, str) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ValueError(
                f"{path.name}, line {number}: expected file_name and caption (or captions, text), got "
                f"{sorted(k for k in row if isinstance(k, str))}"
            )
        captions.setdefault(name, []).extend(str(t).strip() for t in texts)
    if foreign := outside(captions):
        raise ValueError(f"{path.name} names pictures outside of {str(folder)!r}: {', '.join(foreign[:5])}")
    missing = [name for name in captions if not _is_file(folder / name)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} of {len(captions):,} pictures of {path.name} are missing in {str(folder)!r}: "
            + ", ".join(missing)
        )
    return captions


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), start=2)
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(line, f"{path.name}, line {number}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.name} is not a list of captions in UTF-8: {error}") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, got {type(row).__name__}")
    return row


def _is_file(path: Path) -> bool:
    """Also False for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _beside(folder: Path) -> dict[str, list[str]]:
    pictures = pictures_in(folder)
    bare = [p.relative_to(folder).as_posix() for p in pictures if not p.with_suffix(".txt").is_file()]
    if bare and len(bare) == len(pictures):
        raise FileNotFoundError(
            f"{str(folder)!r} has {len(pictures):,} pictures and no captions: expected {' or '.join(LISTS[:2])}, or a "
            f".txt beside each picture"
        )
    if bare:
        raise FileNotFoundError(
            f"{len(bare):,} of {len(pictures):,} pictures in {str(folder)!r} have no .txt beside them: "
            + ", ".join(bare)
        )
    captions = {}
    for picture in pictures:
        try:
            lines = picture.with_suffix(".txt").read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"the captions beside {picture.name} are not UTF-8 text: {error}") from error
        captions[picture.relative_to(folder).as_posix()] = [line.strip() for line in lines if line.strip()]
    empty = [name for name, texts in captions.items() if not texts]
    if empty:
        raise ValueError(f"the caption files of {len(empty):,} pictures are empty: " + ", ".join(empty))
    return captions
