"""Every stage after `pictures` and `text`, one after the other at toy size, on drawings and sentences made here."""

import csv
import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from lens_multimodal import attach_vision, tiny
from recipes.tiny import evaluate, language, oracle, pack, projection, samples, tokenizer, vision
from recipes.tiny.card import write_card
from recipes.tiny.settings import Settings, toy
from recipes.tiny.stage import write_json
from tests.recipes.generated_corpus import write_corpus

NOUNS = ("apple", "ball", "car", "dog", "hat", "sun")
SPLITS = ("train",) * 5 + ("held_out_drawing", "held_out_style")


@pytest.fixture(scope="module")
def settings() -> Settings:
    base = toy()
    return replace(
        base,
        language=replace(base.language, n_ctx=128, steps=30, learning_rate=5e-3),
        tokenizer=replace(base.tokenizer, vocab_size=2048),
        vision=replace(base.vision, batch=12),
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    _draw(folder / "pictures", settings.pictures.size)
    _write(folder, settings)
    return folder


@pytest.mark.slow
def test_stages_run_one_after_the_other(work: Path, settings: Settings) -> None:
    tokenizer.run(settings, work)
    language.run(settings, work)
    oracle_report = oracle.run(settings, work)
    assert 0 <= oracle_report["share that names the noun"] <= 1
    vision.run(settings, work)
    weights = {p: p.read_bytes() for p in (work / "language" / "model").glob("*.safetensors")}
    encoder = load_file(work / "vision" / "encoder.safetensors")
    report = projection.run(settings, work)
    assert report["steps"] == settings.projection.steps
    assert all(path.read_bytes() == before for path, before in weights.items())
    assert all(torch.equal(v, encoder[k]) for k, v in load_file(work / "vision" / "encoder.safetensors").items())
    samples.run(settings, work)
    pack.run(settings, work)
    figures = evaluate.run(settings, work)
    assert set(figures["naming"]) >= {"trio", "blank image", "shuffled features", "random encoder"}
    assert figures == evaluate.run(settings, work), "a finished stage returns its report again"
    package = work / "package"
    package.mkdir()
    pack.ship(work, package)
    write_card(work, package)
    card = (package / "MODEL_CARD.md").read_text()
    share = figures["naming"]["trio"]["known"]["share"]
    assert f"{share:.1%}" in card
    model, words = tiny.load_language_model(package)
    lens = attach_vision(
        model, vision=tiny.load_vision(package), projection=tiny.load_projection(package), tokenizer=words
    )
    assert isinstance(lens.caption(next((package / "scenes" / "images").iterdir())), str)


def test_no_held_out_drawing_reaches_a_caption_batch(work: Path) -> None:
    data = projection.read_labelled(work / "pictures", split="train", vocabulary=list(NOUNS), side=48)
    with (work / "pictures" / "pictures.csv").open() as file:
        split = {int(row["id"]): row["split"] for row in csv.DictReader(file)}
    assert {split[i] for i in data.cutouts.ids.tolist()} == {"train"}
    batches = projection.caption_batches(data, list(NOUNS), batch=8, size=48, seed=0)
    first, second = itertools.islice(batches, 2)
    (again,) = itertools.islice(projection.caption_batches(data, list(NOUNS), batch=8, size=48, seed=0, first=1), 1)
    assert torch.equal(second.pixels, again.pixels)
    assert list(second.captions) == list(again.captions)
    assert not torch.equal(first.pixels[:4], second.pixels[:4])
    assert all(any(noun in caption for noun in NOUNS) for caption in first.captions)


def _draw(folder: Path, size: int) -> None:
    """A different shape for each noun, a different colour for each drawing of it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels, rows = [], []
    for number, noun in enumerate(NOUNS):
        for split in SPLITS:
            image = Image.new("RGBA", (size, size))
            colour = tuple(int(c) for c in rng.integers(40, 255, 3))
            ImageDraw.Draw(image).regular_polygon((size / 2, size / 2, size / 2.2), number + 3, fill=(*colour, 255))
            raw = np.asarray(image)
            rows.append(
                {
                    "id": len(pixels), "sha256": hashlib.sha256(raw.tobytes()).hexdigest(), "source": "shapes",
                    "style": "flat", "name": noun, "concept": noun, "licence": "CC0-1.0", "permissive": 1,
                    "split": split, "model": "",
                }
            )  # fmt: skip
            pixels.append(raw)
    np.save(folder / "pixels.npy", np.stack(pixels))
    with (folder / "pictures.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    write_json(folder / "vocabulary.json", sorted(NOUNS))


def _write(work: Path, settings: Settings) -> None:
    """Generated sentences only, and the licences that `fetch` would have collected."""
    mix = write_corpus(work, settings, documents=1500)
    write_json(work / "text" / "done.json", {"mix": mix})
    shapes = {"name": "shapes", "version": "1", "licence": "CC0-1.0", "author": "the test"}
    (work / "fetch").mkdir()
    (work / "fetch" / "licences.json").write_text(json.dumps([shapes]))
