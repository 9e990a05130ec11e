"""`python -m lens_multimodal.demo`: a page of the tiny trio's captions and neurons, and a report of the experiments."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from lens_multimodal.analysis import effects_of, neuron_activations, receptive_field
from lens_multimodal.attach import attach_vision
from lens_multimodal.data import Scene, read_coco
from lens_multimodal.hooks import ablate, random_neurons_like
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.image_prompt import ImagePrompt
from lens_multimodal.short_report import short_report
from lens_multimodal.tiny import scenes_folder
from lens_multimodal.views.demo_page import CaptionedScene, ExplainedWord, page

COUNTS = (10, 30, 100, 300)
"""Numbers of top neurons to ablate."""

MOST_EXPLAINED = 6
"""Captions whose neurons are shown."""


def sample_scenes(*, each: int) -> list[Scene]:
    """The first `each` single-object scenes with known drawings, and as many with held-out drawings."""
    scenes = [scene for scene in read_coco(scenes_folder(), with_captions=False) if len(scene.objects) == 1]
    return [
        scene
        for drawings in ("known", "held_out")
        for scene in [one for one in scenes if one.extra["drawings"] == drawings][:each]
    ]


def caption_scenes(lens: VisionLens, scenes: Sequence[Scene]) -> list[CaptionedScene]:
    """Scenes with the model's captions."""
    pictures = tuple(scene.open() for scene in scenes)
    return [
        CaptionedScene(picture=picture, noun=scene.categories[0], drawings=scene.extra["drawings"], caption=caption)
        for scene, picture, caption in zip(scenes, pictures, lens.caption(pictures), strict=True)
    ]


def explain(lens: VisionLens, scene: CaptionedScene, *, shown: int = 5) -> ExplainedWord:
    """The neurons behind the noun in a caption, their receptive fields, and the noun's probability without them."""
    word = f" {scene.noun}"
    prompt = lens.prompt_before(scene.picture, word)
    ranked = lens.neurons(prompt, word, top_k=max(COUNTS))
    first = ranked[ranked["interpretable"]].head(shown)
    first = first if len(first) else ranked.head(shown)
    geometry = lens.vision.geometry(*scene.picture.size)
    activations = neuron_activations(lens.model, prompt.tokens, first, prompt.image_pos[0])[0]
    return ExplainedWord(
        scene=scene,
        neurons=first,
        fields=tuple(receptive_field(values.reshape(prompt.grid), geometry) for values in activations),
        probability_left=_probability_left(lens, prompt, lens.text.token_id(word), ranked),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Caption, explain, write the page and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo.html"), help="the HTML page to write")
    parser.add_argument(
        "--pictures", type=int, default=8, help="sample pictures with known drawings, and as many with held-out ones"
    )
    options = parser.parse_args(arguments)
    lens = attach_vision()
    scenes = caption_scenes(lens, sample_scenes(each=options.pictures))
    for scene in scenes:
        sys.stdout.write(f"{scene.drawings:>8}  {scene.noun:<12} -> {scene.caption}\n")
    right = [scene for scene in scenes if scene.names_its_object]
    explained = [explain(lens, scene) for scene in right[:MOST_EXPLAINED]]
    for one in explained:
        best, left = one.neurons.iloc[0], one.probability_left
        sys.stdout.write(
            f"neurons behind {one.word!r}: layer {best.layer}, neuron {best.neuron} writes"
            f"{''.join(best.tokens[:6])}; "
            f"without the top {COUNTS[-1]}, {left['top'][-1]:.0%} of the probability is left; without as many "
            f"random neurons, {left['random'][-1]:.0%}\n"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = options.out.with_name(f"{options.out.stem}_report.html")
    verdicts = short_report(lens, page=report, pictures=options.pictures)
    for verdict in verdicts:
        sys.stdout.write(f"* {verdict}\n")
    html = page(
        scenes,
        explained,
        lens=repr(lens),
        n_layers=lens.shape.n_layers,
        counts=COUNTS,
        verdicts=verdicts,
        report=report.name,
    )
    options.out.write_text(html, encoding="utf-8")
    sys.stdout.write(f"wrote {options.out} and {report}\n")


def _probability_left(
    lens: VisionLens, prompt: ImagePrompt, token: int, ranked: pd.DataFrame
) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(0)
    top = [ranked.head(count) for count in COUNTS]
    random = [random_neurons_like(lens.model, neurons, generator) for neurons in top]
    hooks = [ablate(lens.model, neurons, positions=prompt.image_pos[0]) for neurons in [*top, *random]]
    effects = effects_of(lens.model, prompt.tokens, hooks, token)
    left = [1 + float(effect.relative_probability_change) for effect in effects]
    return {"top": left[: len(COUNTS)], "random": left[len(COUNTS) :]}


if __name__ == "__main__":
    main()
