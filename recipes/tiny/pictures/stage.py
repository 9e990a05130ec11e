"""The stage `pictures`: packages in; cut-outs, their table with labels and splits, and the vocabulary out."""

import csv
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lens_multimodal.files import digest_of_file, write_atomically
from recipes.tiny.pictures.drawing import Drawing
from recipes.tiny.pictures.duplicates import fingerprints, groups
from recipes.tiny.pictures.labels import HERE, Labels, read_labels
from recipes.tiny.pictures.render import cores, forget_others, render
from recipes.tiny.pictures.review import read_review
from recipes.tiny.pictures.sources import drawings, views_of
from recipes.tiny.pictures.splits import TRAIN, Entry, assign
from recipes.tiny.settings import Settings
from recipes.tiny.stage import run_once, write_json

CONCEPTS, REVIEW = HERE.parent / "concepts.csv", HERE.parent / "label_review.csv"
HELD_OUT_AT_LEAST = 2
"""Held-out drawings of a noun besides those of the held-out style."""
COLUMNS = ("id", "sha256", "source", "style", "name", "concept", "licence", "permissive", "split", "model")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A rendered drawing and what was decided about it."""

    drawing: Drawing
    sha256: str
    part: Path
    row: int
    """Row of its pixels in the part's array."""
    named: str = ""
    """Noun by the name alone."""
    noun: str = ""
    """Noun after the review."""
    group: str = ""
    split: str = TRAIN


def run(settings: Settings, work: Path, *, concepts: Path = CONCEPTS, review: Path = REVIEW) -> dict:
    """Render, label, split and store every picture of the fetched packages.

    Reads `work/downloads`; writes `work/cutouts` (rendered parts, kept for later runs) and `work/pictures`:
    `pixels.npy` (uint8 `[n, size, size, 4]`, straight alpha), `pictures.csv`, `vocabulary.json`.

    Returns: counts by style, split and noun. Raises: FileNotFoundError if nothing was fetched.
    """
    known = settings.of("pictures") | {
        "labels": _hash(HERE / "labels.toml"),
        "concepts": _hash(concepts),
        "review": _hash(review),
    }
    return run_once(work / "pictures", known, lambda: _make(settings, work, concepts, review))


def _make(settings: Settings, work: Path, concepts: Path, review: Path) -> dict:
    labels = read_labels(concepts)
    found = drawings(work / "downloads")
    if not found:
        raise FileNotFoundError(f"No picture package under {work / 'downloads'}. Run the stage `fetch` first.")
    cutouts = work / "cutouts"
    pictures, parts, dropped = _render_all(found, cutouts, settings.pictures.size)
    pictures = _decide(pictures, labels, read_review(review, labels.nouns), settings)
    vocabulary = _vocabulary(pictures, settings.pictures.min_drawings)
    seen, more_parts, more_dropped = _views(pictures, cutouts, settings)
    forget_others(cutouts, parts + more_parts)
    pictures, dropped = pictures + seen, dropped + more_dropped
    pictures = _kept(pictures, set(vocabulary))[: settings.pictures.limit]
    _store(pictures, work / "pictures", settings.pictures.size)
    write_json(work / "pictures" / "vocabulary.json", vocabulary)
    return _report(pictures, vocabulary, dropped)


def _render_all(
    found: dict[str, list[Drawing]], folder: Path, size: int
) -> tuple[list[Picture], list[Path], Counter[str]]:
    """Pictures without repeated pixels, part files, and the reasons why drawings were dropped."""
    pictures: list[Picture] = []
    dropped: Counter[str] = Counter()
    parts: list[Path] = []
    for source, listed in found.items():
        paths = render(listed, folder, size=size, workers=cores(), title=source)
        by_key = {d.key: d for d in listed}
        for path in paths:
            part = json.loads(path.read_text())
            dropped.update(part["dropped"].values())
            for row, (key, digest) in enumerate(zip(part["keys"], part["sha256"], strict=True)):
                pictures.append(Picture(drawing=by_key[key], sha256=digest, part=path.with_suffix(".npy"), row=row))
        parts += paths
    once = list({p.sha256: p for p in reversed(pictures)}.values())[::-1]
    dropped["the same pixels again"] = len(pictures) - len(once)
    return once, parts, dropped


def _views(pictures: list[Picture], folder: Path, settings: Settings) -> tuple[list[Picture], list[Path], Counter[str]]:
    """Sides of the 3-D models named by a noun; noun after review, group and split are those of the model's icon."""
    icons = {p.drawing.model: p for p in pictures if p.drawing.model and p.named}
    sides = [v for p in icons.values() for v in views_of(p.drawing, views=settings.pictures.views_per_model)]
    seen, parts, dropped = _render_all({"3-D models": sides} if sides else {}, folder, settings.pictures.size)
    taken = {p.sha256 for p in pictures}
    inherited = [
        replace(icons[v.drawing.model], drawing=v.drawing, sha256=v.sha256, part=v.part, row=v.row)
        for v in seen
        if v.sha256 not in taken
    ]
    return inherited, parts, dropped


def _decide(pictures: list[Picture], labels: Labels, corrected: dict[str, str], settings: Settings) -> list[Picture]:
    """Labels, groups of near-duplicates and splits.

    Splits follow the labels by name and not the review, so that a correction moves no picture between splits.
    """
    named = [labels.noun(p.drawing) for p in pictures]
    prints = [fingerprints(_pixels(pictures[start : start + 512])) for start in range(0, len(pictures), 512)]
    outline, shading = (np.concatenate([p[k] for p in prints]) for k in (0, 1))
    hands, families = [p.drawing.hand for p in pictures], [p.drawing.family for p in pictures]
    group = [pictures[root].drawing.key for root in groups(outline, shading, hands=hands, families=families)]
    splits = assign(
        [
            Entry(group=g, style=p.drawing.style, noun=n, permissive=p.drawing.permissive)
            for p, g, n in zip(pictures, group, named, strict=True)
        ],
        held_out_style=settings.pictures.held_out_style,
        share=settings.pictures.held_out_share,
        at_least=HELD_OUT_AT_LEAST,
        seed=settings.seed,
    )
    decided = zip(pictures, named, group, splits, strict=True)
    return [replace(p, named=n, noun=corrected.get(p.drawing.key, n), group=g, split=s) for p, n, g, s in decided]


def _vocabulary(pictures: list[Picture], min_drawings: int) -> list[str]:
    """Nouns with enough different permissive drawings; near-duplicates and views of one model count once."""
    different: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        if picture.noun and picture.drawing.permissive:
            different[picture.noun].add(picture.group)
    return sorted(noun for noun, drawn in different.items() if len(drawn) >= min_drawings)


def _kept(pictures: list[Picture], vocabulary: set[str]) -> list[Picture]:
    """Drop labels outside the vocabulary, and held-out pictures without a label, which nothing can use."""
    labelled = [replace(p, noun=p.noun if p.noun in vocabulary else "") for p in pictures]
    return [p for p in labelled if p.noun or p.split == TRAIN]


def _store(pictures: list[Picture], folder: Path, size: int) -> None:
    with write_atomically(folder / "pixels.npy") as partial:
        partial.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(pictures), size, size, 4))
        for start in range(0, len(pictures), 512):
            pixels[start : start + 512] = _pixels(pictures[start : start + 512])
        pixels.flush()
    with write_atomically(folder / "pictures.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for row, p in enumerate(pictures):
            d = p.drawing
            table.writerow(
                (
                    row,
                    p.sha256,
                    d.source,
                    d.style,
                    d.name,
                    p.noun,
                    d.licence,
                    int(d.permissive),
                    p.split,
                    d.model,
                )
            )


def _pixels(pictures: list[Picture]) -> np.ndarray:
    opened: dict[Path, np.ndarray] = {}
    rows = []
    for picture in pictures:
        if picture.part not in opened:
            opened[picture.part] = np.load(picture.part, mmap_mode="r")
        rows.append(opened[picture.part][picture.row])
    return np.stack(rows)


def _report(pictures: list[Picture], vocabulary: list[str], dropped: Counter) -> dict:
    of_noun = {
        noun: {
            "permissive drawings": len({p.group for p in pictures if p.noun == noun and p.drawing.permissive}),
            "train": len({p.group for p in pictures if p.noun == noun and p.split == TRAIN}),
            "held out": len(
                {p.group for p in pictures if p.noun == noun and p.split != TRAIN and p.drawing.permissive}
            ),
            "pictures": sum(p.noun == noun for p in pictures),
        }
        for noun in vocabulary
    }
    return {
        "pictures": len(pictures),
        "labelled": sum(bool(p.noun) for p in pictures),
        "nouns": len(vocabulary),
        "by style": dict(Counter(p.drawing.style for p in pictures)),
        "by split": dict(Counter(p.split for p in pictures)),
        "labelled by split": dict(Counter(p.split for p in pictures if p.noun)),
        "of noun": of_noun,
        "dropped": dict(dropped),
    }


def _hash(path: Path) -> str:
    return digest_of_file(path) if path.exists() else ""
