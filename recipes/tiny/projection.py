"""Stage `projection`: the only trained weights are one linear map, on captions of composed scenes."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Generator, Tensor, nn
from transformers import AutoTokenizer, GPTJForCausalLM

from lens_multimodal import Preprocessing, VisionEncoder, VisionLens, attach_vision
from lens_multimodal.files import digest_of_file, digest_of_tensors
from lens_multimodal.prompt.image_prompt import PROMPT
from lens_multimodal.prompt.projection import save_linear
from lens_multimodal.train import BatchesFrom, CaptionBatch, FitSettings, fit_projection, start_like_embeddings
from recipes.tiny.probe import Labelled, read_labelled
from recipes.tiny.scenes import SLOTS, compose, continuation
from recipes.tiny.scenes.compose import Scenes
from recipes.tiny.settings import Settings
from recipes.tiny.stage import device, run_once
from recipes.tiny.vision import build_encoder, source_side

VISIBLE = 0.015
"""A caption names an object that covers at least this share of the scene."""


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Train the map; report losses and proof that the frozen parts did not move."""
    fixed = {**settings.of("projection"), "language": digest_of_file(work / "language" / "model" / "model.safetensors"),
             "vision": digest_of_file(work / "vision" / "encoder.safetensors")}  # fmt: skip
    return run_once(work / "projection", fixed, lambda: _train(settings, work))


def load_language_model(work: Path) -> tuple[Any, Any]:
    """The recipe's GPT-J and its tokenizer."""
    folder = work / "language" / "model"
    model = GPTJForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def open_vision(work: Path) -> VisionEncoder:
    """The recipe's encoder with the preprocessing it is shipped with."""
    config = json.loads((work / "vision" / "encoder.json").read_text())["config"]
    beit = build_encoder(config)
    beit.load_state_dict({k: v.float() for k, v in load_file(work / "vision" / "encoder.safetensors").items()})
    side = config["img_size"]
    return VisionEncoder(beit, preprocessing=Preprocessing(height=side, width=side), name="tiny BEiT")


def read_nouns(work: Path) -> list[str]:
    """The vocabulary, in class order."""
    nouns: list[str] = json.loads((work / "pictures" / "vocabulary.json").read_text())
    return nouns


def visible_nouns(scenes: Scenes, data: Labelled, nouns: list[str]) -> list[tuple[list[str], list[tuple]]]:
    """For each scene, nouns and centres of its objects that are large enough to be named, largest first."""
    pictures, areas, centres = (part.cpu() for part in (scenes.pictures, scenes.areas, scenes.centres))
    seen = (pictures >= 0) & (areas >= VISIBLE * scenes.label.shape[-1] ** 2)
    classes = torch.full_like(pictures, -1)
    classes[seen] = data.nouns[data.cutouts.rows(pictures[seen])]
    found = []
    for shown, sizes, own, places in zip(*(part.tolist() for part in (seen, areas, classes, centres)), strict=True):
        slots = sorted((k for k in range(SLOTS) if shown[k]), key=sizes.__getitem__, reverse=True)
        found.append(([nouns[own[k]] for k in slots], [tuple(places[k]) for k in slots]))
    return found


def captioned_rows(scenes: Scenes, data: Labelled, nouns: list[str], *, random: Random) -> tuple[list[int], list[str]]:
    """The scenes that show anything to be named, and a caption for each."""
    kept, captions = [], []
    for row, (seen, centres) in enumerate(visible_nouns(scenes, data, nouns)):
        if seen:
            kept.append(row)
            captions.append(continuation(seen, centres, random=random))
    return kept, captions


def fit_settings(settings: Settings, *, steps: int) -> FitSettings:
    """How the trio's projection is fitted; the oracle and the controls differ in the number of steps only."""
    own = settings.projection
    return FitSettings(
        steps=steps,
        batch_size=own.batch,
        learning_rate=own.learning_rate,
        muon_rate=own.muon_rate,
        warmup=min(own.warmup, steps),
        dropout=own.dropout,
        prompt=PROMPT,
        precision="bf16",
        seed=settings.seed,
        checkpoint_every=100,
    )


def fit_map(
    model: Any,
    tokenizer: Any,
    vision: VisionEncoder,
    batches_from: BatchesFrom,
    *,
    settings: FitSettings,
    folder: Path,
) -> nn.Linear:
    """Train a map from `vision` to `model`; write it to `folder`.

    Both are left on the device of the training.

    Raises: RuntimeError if a frozen part is not bit for bit what it was.
    """
    lens = attach_vision(
        model,
        vision=vision,
        projection=nn.Linear(vision.d_vision, model.config.n_embd),
        tokenizer=tokenizer,
        device=device(),
    )
    before = frozen_digest(lens.model, lens.vision)
    fit_from_embeddings(lens, batches_from, settings=settings, folder=folder / "fit")
    after = frozen_digest(lens.model, lens.vision)
    if after != before:
        raise RuntimeError("a frozen part changed while the projection was trained")
    (folder / "frozen.txt").write_text(f"{after}\n")
    linear = lens.projection.linear
    lens.detach()
    save_linear(linear, folder / "projection.safetensors")
    return linear


def fit_on_captions(
    settings: Settings,
    work: Path,
    vision: VisionEncoder,
    language: tuple[Any, Any],
    *,
    fit: FitSettings,
    folder: Path,
) -> nn.Linear:
    """`fit_map` to `language`, a model and its tokenizer, on captioned scenes of the training drawings."""
    nouns, own = read_nouns(work), settings.projection
    data = read_labelled(work / "pictures", split="train", vocabulary=nouns, side=source_side(settings))
    size = settings.vision.image_size
    return fit_map(
        *language,
        vision,
        lambda first: caption_batches(data, nouns, batch=own.batch, size=size, seed=settings.seed, first=first),
        settings=fit,
        folder=folder,
    )


def fit_from_embeddings(
    lens: VisionLens, batches_from: BatchesFrom, *, settings: FitSettings, folder: Path
) -> nn.Linear:
    """Fit the lens's map from an initialisation whose vectors resemble token embeddings."""
    with torch.no_grad():
        features = lens.vision(next(batches_from(0)).pixels).flatten(0, 1)
    start_like_embeddings(lens.projection.linear, lens.model, features, seed=settings.seed)
    return fit_projection(lens, batches_from, settings=settings, folder=folder)


def choose_by_noun(data: Labelled, counts: Tensor, *, generator: Generator) -> Tensor:
    """Random pictures for scenes of `counts` objects, every noun equally often: ids (scene, 3), -1 for no object."""
    weights = 1.0 / data.nouns.bincount()[data.nouns].to(counts.device)
    drawn = torch.multinomial(weights, len(counts) * SLOTS, replacement=True, generator=generator)
    pictures = data.cutouts.ids.to(counts.device)[drawn].reshape(len(counts), SLOTS)
    return pictures.masked_fill(torch.arange(SLOTS, device=counts.device) >= counts[:, None], -1)


def caption_batches(
    data: Labelled, nouns: list[str], *, batch: int, size: int, seed: int, first: int = 0
) -> Iterator[CaptionBatch]:
    """Endless composed scenes with captions; batch number n is the same whenever it is made."""
    where = device()
    cutouts = data.cutouts.to(where)
    number = first
    while True:
        generator = Generator(where).manual_seed((seed << 32) + number)
        random = Random(f"{seed}:{number}")
        counts = torch.tensor([random.choice((1, 1, 2, 3)) for _ in range(batch)], device=where)
        scenes = compose(cutouts, choose_by_noun(data, counts, generator=generator), size=size, generator=generator)
        kept, captions = captioned_rows(scenes, data, nouns, random=random)
        yield CaptionBatch(pixels=(scenes.image[kept] - 0.5) / 0.5, captions=captions)
        number += 1


def frozen_digest(*parts: nn.Module) -> str:
    """One digest of every frozen weight."""
    states = [part.state_dict() for part in parts]
    return digest_of_tensors(
        {f"{n}.{name}": tensor for n, state in enumerate(states) for name, tensor in state.items()}
    )


def _train(settings: Settings, work: Path) -> dict[str, Any]:
    steps = settings.projection.steps
    fit_on_captions(
        settings,
        work,
        open_vision(work),
        load_language_model(work),
        fit=fit_settings(settings, steps=steps),
        folder=work / "projection",
    )
    log = [json.loads(line) for line in (work / "projection" / "fit" / "log.jsonl").read_text().splitlines()]
    last = [record["loss"] for record in log[-50:]]
    return {
        "steps": steps,
        "loss of the last steps": sum(last) / len(last),
        "frozen parts": (work / "projection" / "frozen.txt").read_text().strip(),
    }
