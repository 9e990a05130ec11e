"""The oracle ceiling: the same projection training on features that carry the noun perfectly.

Each noun has one fixed random vector at the image patches its object covers, each scene's background another, and
noise is added. Caption accuracy here is the most that the language model and the linear map allow; any further loss
comes from the encoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from lens_multimodal import VisionLens, attach_vision
from lens_multimodal.files import digest_of_file
from lens_multimodal.image.encoder import Preprocessing, VisionEncoder
from lens_multimodal.train import CaptionBatch
from recipes.tiny.evaluate.captions import nouns_in
from recipes.tiny.objectives import patch_shares
from recipes.tiny.probe import Labelled, read_labelled
from recipes.tiny.projection import (
    captioned_rows,
    choose_by_noun,
    fit_from_embeddings,
    fit_settings,
    load_language_model,
    read_nouns,
)
from recipes.tiny.scenes import SLOTS, compose
from recipes.tiny.settings import Settings
from recipes.tiny.stage import run_once
from recipes.tiny.vision import source_side

BACKGROUNDS = 16
NOISE = 1.0
"""Standard deviation of the noise; the vectors have entries of standard deviation 1."""
STEPS, BATCH = 600, 64
TESTED = 300


@dataclass(frozen=True, kw_only=True, eq=False)
class OracleBatch(CaptionBatch):
    """A batch whose "pixels" are features already, `[batch, patch, d_vision]`."""

    pixels: Float[Tensor, "batch patch d_vision"]


class GivenFeatures(VisionEncoder):
    """Replaces the encoder and returns the given features."""

    def __init__(self, *, d_vision: int, side: int) -> None:
        nn.Module.__init__(self)
        self.d_vision, self.grid_h, self.grid_w = d_vision, side, side
        self.preprocessing = Preprocessing(height=side, width=side)
        self.module = nn.Linear(1, 1)
        self.name = "oracle features"

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels

    def features_of(self, pixels: Float[Tensor, "batch patch d_vision"]) -> Float[Tensor, "batch patch d_vision"]:
        return pixels


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Train a projection on oracle features; report how often captions of new scenes name the noun."""
    fixed = {
        **settings.of("projection"),
        "language": digest_of_file(work / "language" / "model" / "model.safetensors"),
        "noise": NOISE,
        "oracle steps": STEPS,
        "oracle batch": BATCH,
    }
    return run_once(work / "oracle", fixed, lambda: _measure(settings, work))


def _measure(settings: Settings, work: Path) -> dict[str, Any]:
    own, vision = settings.projection, settings.vision
    model, tokenizer = load_language_model(work)
    side = vision.image_size // vision.patch_size
    linear = nn.Linear(vision.d_vision, model.config.n_embd)
    encoder = GivenFeatures(d_vision=vision.d_vision, side=side)
    lens = attach_vision(model, vision=encoder, projection=linear, tokenizer=tokenizer)
    nouns = read_nouns(work)
    data = read_labelled(work / "pictures", split="train", vocabulary=nouns, side=source_side(settings))
    steps, batch = min(own.steps, STEPS), min(own.batch, BATCH)
    fit_from_embeddings(
        lens,
        lambda first: oracle_batches(data, nouns, settings, batch=batch, first=first),
        settings=replace(fit_settings(settings, steps=steps), batch_size=batch),
        folder=work / "oracle",
    )
    tested = min(TESTED, 50 * batch)
    right = _naming(lens, next(oracle_batches(data, nouns, settings, batch=tested, first=10**6, singles=True)), nouns)
    return {
        "noise": NOISE,
        "features": vision.d_vision,
        "steps": steps,
        "single-object scenes": tested,
        "share that names the noun": right,
    }


def oracle_batches(
    data: Labelled, nouns: list[str], settings: Settings, *, batch: int, first: int = 0, singles: bool = False
) -> Iterator[OracleBatch]:
    """Endless batches of oracle features."""
    vision = settings.vision
    fixed = Generator().manual_seed(settings.seed)
    of_noun = torch.randn(len(nouns), vision.d_vision, generator=fixed)
    of_background = torch.randn(BACKGROUNDS, vision.d_vision, generator=fixed)
    number = first
    while True:
        generator, random = Generator().manual_seed((settings.seed << 32) + number), Random(f"oracle:{number}")
        counts = torch.tensor([1 if singles else random.choice((1, 1, 2, 3)) for _ in range(batch)])
        scenes = compose(
            data.cutouts, choose_by_noun(data, counts, generator=generator), size=vision.image_size,
            generator=generator,
        )  # fmt: skip
        shares = patch_shares(scenes.label, slots=SLOTS, patch_size=vision.patch_size)
        features = of_background[torch.randint(BACKGROUNDS, (batch, 1), generator=generator)].repeat(
            1, shares.shape[-1], 1
        )
        for slot in range(SLOTS):
            row, patch = ((shares[:, slot] >= 0.5) & (scenes.pictures[:, slot : slot + 1] >= 0)).nonzero(as_tuple=True)
            classes = data.nouns[data.cutouts.rows(scenes.pictures[row, slot])]
            features[row, patch] = of_noun[classes]
        features = features + NOISE * torch.randn(features.shape, generator=generator)
        kept, captions = captioned_rows(scenes, data, nouns, random=random)
        yield OracleBatch(pixels=features[kept], captions=captions)
        number += 1


def _naming(lens: VisionLens, batch: OracleBatch, nouns: list[str]) -> float:
    right = 0
    for start in range(0, len(batch.captions), 64):
        with torch.no_grad():
            prompt = lens.prompt_from_vectors(lens.projection(batch.pixels[start : start + 64]))
        said = lens.generate_ids(prompt, max_new_tokens=12)
        for ids, truth in zip(said, batch.captions[start : start + 64], strict=True):
            right += nouns_in(truth, nouns) <= nouns_in(lens.text.caption(ids), nouns)
        lens.forget(prompt)
    return right / len(batch.captions)
