"""What a setting of the projection's training does to where and how the language model translates.

Not a stage: `python -m recipes.tiny.trials` trains one short projection for each of `VARIANTS` on the finished language
model and encoder, and writes what captions and neurons became of it to `translation_trials.csv`.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from lens_multimodal import VisionLens, attach_vision
from recipes.tiny.evaluate import KINDS, fresh_scenes
from recipes.tiny.evaluate.captions import caption_all, direct_decoding, naming, seen
from recipes.tiny.evaluate.translation import translation
from recipes.tiny.projection import fit_on_captions, fit_settings, load_language_model, open_vision, read_nouns
from recipes.tiny.settings import Settings

STEPS = 300
VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped, but shorter": {},
    "no dropout": {"dropout": 0.0},
    "dropout 0.3": {"dropout": 0.3},
    "weight decay 5": {"weight_decay": 5.0},
    "AdamW for the weight": {"muon_rate": None},
}
TABLE = Path(__file__).parent / "translation_trials.csv"
WORK = Path(__file__).parent / "work"


def main(
    work: Annotated[Path, typer.Option(help="A work folder whose stages up to `projection` are done.")] = WORK,
    only: Annotated[list[str] | None, typer.Option(help="Variants to run; all without.")] = None,
) -> None:
    """Run the variants; rows of the same variant and the same language model are replaced."""
    settings, key = Settings(), ["what", "language tokens"]
    tokens = json.loads((work / "language" / "done.json").read_text())["tokens_trained"]
    table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=key)
    for name in only or VARIANTS:
        row = {"what": name, "language tokens": tokens, "steps": STEPS, **figures(settings, work, name)}
        table = pd.concat([table, pd.DataFrame([row])]).drop_duplicates(key, keep="last")
        table.round(4).to_csv(TABLE, index=False)


def figures(settings: Settings, work: Path, variant: str) -> dict[str, Any]:
    """Train and look: captions of known drawings, and the translation figures of the right ones."""
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
        "noun said by a top-20 neuron": says["top"],
        "noun said by a random neuron": says["random"],
        "prompts nearest to the noun": direct_decoding(lens, scenes)["patches, nearest"],
        "patches reading as the noun, best depth": max(found["covered patches that read as the noun, by depth"]),
    }


def _lens(settings: Settings, work: Path, variant: str) -> VisionLens:
    vision = open_vision(work)
    folder = work / "trials" / variant.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(work / "projection" / "coordinates.pt", folder)
    fit = replace(fit_settings(settings, steps=STEPS), **VARIANTS[variant])
    linear = fit_on_captions(settings, work, vision, load_language_model(work), fit=fit, folder=folder)
    model, tokenizer = load_language_model(work)
    return attach_vision(model, vision=vision, projection=linear, tokenizer=tokenizer)


if __name__ == "__main__":
    typer.run(main)
