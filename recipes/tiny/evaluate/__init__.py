"""Stage `evaluate`: every figure of the model card, measured on the files that ship."""

from pathlib import Path
from typing import Any

import torch

from lens_multimodal import VisionLens, attach_vision, tiny
from recipes.tiny import evaluate_text, samples
from recipes.tiny.evaluate import captions
from recipes.tiny.evaluate.probes import probes
from recipes.tiny.evaluate.translation import translation
from recipes.tiny.pack import packed_digest
from recipes.tiny.projection import fit_on_captions, fit_settings, read_nouns
from recipes.tiny.sample_scene import Scene, of_split, read_scenes
from recipes.tiny.settings import Settings
from recipes.tiny.stage import run_once, write_json

KINDS = {
    "known": ("train",),
    "held_out_drawing": ("held_out_drawing",),
    "held_out_style": ("held_out_style",),
}


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Measure the packed trio; writes `work/evaluate/figures.json`."""
    fixed = {**settings.of("evaluate"), "packed": packed_digest(work)}
    return run_once(work / "evaluate", fixed, lambda: _measure(settings, work))


def open_trio(folder: Path) -> VisionLens:
    """A trio in its shipped layout, read by the package's own loader."""
    model, tokenizer = tiny.load_language_model(folder)
    return attach_vision(
        model, vision=tiny.load_vision(folder), projection=tiny.load_projection(folder), tokenizer=tokenizer
    )


def _measure(settings: Settings, work: Path) -> dict[str, Any]:
    nouns = read_nouns(work)
    lens = open_trio(work / "packed")
    fresh = {kind: fresh_scenes(settings, work, splits) for kind, splits in KINDS.items()}
    shipped = read_scenes(work / "packed" / "scenes")
    control = _random_encoder_control(settings, work, lens)
    sources = {
        "trio": captions.seen(lens),
        "blank image": captions.blank(lens),
        "shuffled features": captions.shuffled(lens),
        "random encoder": control,
    }
    figures: dict[str, Any] = {
        "text": evaluate_text.run(settings, work),
        "probe": probes(settings, work, lens),
        "naming": {},
        "several objects": {},
        "cider": {},
    }
    for who, vectors in sources.items():
        said = {kind: captions.caption_all(lens, scenes, vectors) for kind, scenes in fresh.items()}
        figures["naming"][who] = {kind: captions.naming(found, nouns) for kind, found in said.items()}
        on_shipped = captions.caption_all(lens, shipped, vectors)
        figures["several objects"][who] = captions.precision_recall(on_shipped, nouns)
        figures["cider"][who] = captions.cider(on_shipped)
        if who == "trio":
            figures["naming"]["trio on shipped scenes"] = {
                kind: captions.naming([c for c in on_shipped if c.scene in of_split(shipped, *splits)], nouns)
                for kind, splits in KINDS.items()
            }
    figures["direct decoding"] = captions.direct_decoding(lens, fresh["known"])
    figures["translation"] = translation(lens, fresh["known"][: settings.evaluate.translated])
    write_json(work / "evaluate" / "figures.json", figures)
    return figures


def fresh_scenes(settings: Settings, work: Path, splits: tuple[str, ...]) -> list[Scene]:
    """New single-object scenes of permissive drawings of these splits, every noun equally often."""
    nouns = read_nouns(work)
    drawings = samples.read_drawings(work / "pictures" / "pictures.csv", nouns)
    data = samples.labelled(work, drawings, splits, nouns, side=settings.pictures.size)
    counts = torch.ones(settings.evaluate.scenes, dtype=torch.int64)
    generator = torch.Generator().manual_seed(settings.seed + 1_000 + len(splits[0]))
    scenes = samples.seen_scenes(data, counts, nouns, size=settings.scenes.size, generator=generator)
    return [samples.as_scene(scenes, row, drawings) for row in range(len(counts))]


def _random_encoder_control(settings: Settings, work: Path, lens: VisionLens) -> captions.Vectors:
    """A projection trained in the same way, for fewer steps, on an untrained encoder."""
    config = tiny.read_vision_config(work / "packed")["beit"]
    encoder = captions.untrained_beit(lens.vision, config, seed=settings.seed + 99)
    linear = fit_on_captions(
        settings,
        work,
        encoder,
        tiny.load_language_model(work / "packed"),
        fit=fit_settings(settings, steps=settings.evaluate.control_steps),
        folder=work / "evaluate" / "random_encoder",
    )
    return captions.random_encoder(linear, encoder.cpu())
