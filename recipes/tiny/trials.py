"""How a setting changes where and how the language model turns image prompts into words.

Not a stage: `python -m recipes.tiny.trials` trains one short projection for each of `VARIANTS` on the finished encoder,
and writes the figures of the captions and neurons to `translation_trials.csv`. Variants of the language model or of
its text first train their own language model, for about an hour on one core.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from lens_multimodal import VisionLens, attach_vision
from recipes.tiny import language, text
from recipes.tiny.evaluate import KINDS, fresh_scenes
from recipes.tiny.evaluate.captions import caption_all, direct_decoding, naming, seen
from recipes.tiny.evaluate.translation import WHERE, translation
from recipes.tiny.projection import fit_on_captions, fit_settings, load_language_model, open_vision, read_nouns
from recipes.tiny.settings import Settings

STEPS = 300


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs from the trio that ships, besides the shorter training of the projection."""

    fit: dict[str, Any] = field(default_factory=dict)
    """Of the projection's `FitSettings`."""
    language: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "as shipped, but shorter": Variant(),
    "no dropout": Variant(fit={"dropout": 0.0}),
    "dropout 0.3": Variant(fit={"dropout": 0.3}),
    "weight decay 5": Variant(fit={"weight_decay": 5.0}),
    "AdamW for the weight": Variant(fit={"muon_rate": None}),
    "short language model": Variant(language={"steps": 4000}),
    "short language model, 12 layers": Variant(language={"steps": 4000, "n_layers": 12}),
    "short language model, 3/4 real text": Variant(language={"steps": 4000}, text={"generated_megabytes": 8.0}),
}
SHARED = ("cutouts", "downloads", "pictures", "projection", "samples", "tokenizer", "vision")
"""Stages that no variant repeats."""
TABLE = Path(__file__).parent / "translation_trials.csv"
WORK = Path(__file__).parent / "work"


def main(
    work: Annotated[Path, typer.Option(help="A work folder whose stages up to `projection` are done.")] = WORK,
    only: Annotated[list[str] | None, typer.Option(help="Variants to run; all by default.")] = None,
) -> None:
    """Run the variants; rows of the same variant and the same language model are replaced."""
    key = ["what", "language tokens"]
    table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=key)
    for name in only or VARIANTS:
        settings, home = with_language_model(work, name)
        trained = json.loads((home / "language" / "done.json").read_text())
        row = {
            "what": name,
            "language tokens": trained["tokens_trained"],
            "real text, nats": trained["held_out_real"][-1][1],
            "generated text, nats": trained["held_out_generated"][-1][1],
            "steps": STEPS,
            **figures(settings, home, name),
        }
        table = pd.concat([table, pd.DataFrame([row])]).drop_duplicates(key, keep="last")
        table.round(4).to_csv(TABLE, index=False)


def with_language_model(work: Path, name: str) -> tuple[Settings, Path]:
    """The finished stages, or a folder that also holds the variant's own language model."""
    variant, settings = VARIANTS[name], Settings()
    if not (variant.language or variant.text):
        return settings, work
    settings = replace(
        settings, language=replace(settings.language, **variant.language), text=replace(settings.text, **variant.text)
    )
    home = _folder(work, name)
    for stage in SHARED if variant.text else (*SHARED, "text"):
        if not (home / stage).exists():
            (home / stage).symlink_to((work / stage).resolve())
    text.run(settings, home)
    language.run(settings, home)
    return settings, home


def figures(settings: Settings, work: Path, variant: str) -> dict[str, Any]:
    """Train, then measure: captions of known drawings, and the translation figures of the right ones."""
    lens = _lens(settings, work, variant)
    scenes = fresh_scenes(settings, work, KINDS["known"])
    named = naming(caption_all(lens, scenes, seen(lens)), read_nouns(work))
    found = translation(lens, scenes)
    if not found["scenes"]:
        return {"captions right": named["share"], "scenes looked into": 0}
    left, says = found["probability left after ablation"], found["noun among ten tokens of a top-20 neuron"]
    layers = {int(layer): share for layer, share in found["layers of the top five neurons"].items()}
    return {
        "captions right": named["share"],
        "scenes looked into": found["scenes"],
        **{f"left after {name}": value for name, value in left.items()},
        "top five in layer 0": layers[0],
        "mean layer of the top five": sum(layer * share for layer, share in layers.items()),
        **{
            f"noun written {where}, {who}": says[f"{where}, {who}"]
            for where in WHERE.values()
            for who in ("top", "random")
        },
        "prompts nearest to the noun": direct_decoding(lens, scenes)["patches, nearest"],
        "patches reading as the noun, best depth": max(found["covered patches that read as the noun, by depth"]),
    }


def _lens(settings: Settings, work: Path, variant: str) -> VisionLens:
    vision = open_vision(work)
    folder = _folder(work, variant)
    fit = replace(fit_settings(settings, steps=STEPS), **VARIANTS[variant].fit)
    linear = fit_on_captions(settings, work, vision, load_language_model(work), fit=fit, folder=folder)
    model, tokenizer = load_language_model(work)
    return attach_vision(model, vision=vision, projection=linear, tokenizer=tokenizer)


def _folder(work: Path, name: str) -> Path:
    folder = work / "trials" / name.replace(" ", "_").replace("/", "_of_").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    typer.run(main)
