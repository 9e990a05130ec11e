"""`python -m lens_multimodal.demo`: a page of the tiny trio's captions and neurons, and a report of the experiments."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from lens_multimodal.analysis import decode_neurons, neuron_activations, receptive_field
from lens_multimodal.analysis.effects.by_row import captions_without, read_without
from lens_multimodal.attach import attach_vision
from lens_multimodal.data import Scene, read_coco
from lens_multimodal.hooks import random_neurons_like
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.image_prompt import ImagePrompt
from lens_multimodal.short_report import short_report
from lens_multimodal.tiny import scenes_folder
from lens_multimodal.views.demo_page import MOST_SHOWN, TOP_WRITING, CaptionedScene, ExplainedWord, NeuronsAt, page

COUNTS = (10, 30, 100, 300)
"""Numbers of top neurons to ablate."""


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


def explain(lens: VisionLens, scene: CaptionedScene, *, shown: int = 4) -> ExplainedWord:
    """The neurons behind the noun in a caption, where the picture is read and where the noun is predicted."""
    prompt = lens.prompt_before(scene.picture, f" {scene.noun}")
    image, last = (_neurons_at(lens, scene, prompt, positions, shown) for positions in ("image", "last"))
    lens.forget(prompt)
    return ExplainedWord(scene=scene, image=image, last=last)


def in_order_shown(explained: Sequence[ExplainedWord]) -> list[ExplainedWord]:
    """First the pictures whose caption changes without the top neurons, otherwise in their order."""
    return sorted(explained, key=lambda one: not one.changed)


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
    explained = in_order_shown([explain(lens, scene) for scene in right])
    for one in explained[:MOST_SHOWN]:
        left, best = one.image.probability_left, one.last.neurons.iloc[0]
        written = ", ".join(map(repr, best.tokens[:6]))
        sys.stdout.write(
            f"{one.word!r}: without the top {COUNTS[-1]} neurons where the picture is read, {left['top'][-1]:.0%} of "
            f"its probability is left (random: {left['random'][-1]:.0%}) and the caption is {one.image.caption!r}; "
            f"where the word is predicted, layer {best.layer}, neuron {best.neuron} writes {written}\n"
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


def _neurons_at(lens: VisionLens, scene: CaptionedScene, prompt: ImagePrompt, positions: str, shown: int) -> NeuronsAt:
    word = f" {scene.noun}"
    ranked = lens.neurons(prompt, word, positions=positions, top_k=max(COUNTS))
    first = ranked[ranked["whole_words"]].head(shown)
    first = first if len(first) else ranked.head(shown)
    activations = neuron_activations(lens.model, prompt.tokens, first, prompt.at("image"))[0]
    generator = torch.Generator().manual_seed(0)
    top = [ranked.head(count) for count in COUNTS]
    random = [random_neurons_like(lens.model, neurons, generator) for neurons in top]
    some, some_random = ranked.head(TOP_WRITING), random_neurons_like(lens.model, ranked.head(TOP_WRITING), generator)
    predicted = [(prompt.tokens.shape[1] - 1, lens.text.token_id(word))]
    ablated = [None, *top, *random]
    reading = read_without(
        lens.model, prompt.tokens, predicted, ablated, positions=prompt.at(positions), batch_size=len(ablated)
    )
    whole, *left = reading.probability[:, 0].tolist()
    caption, caption_random = _captions_without(lens, scene, [top[-1], random[-1]], positions)
    return NeuronsAt(
        neurons=first,
        fields=tuple(receptive_field(values, prompt.spans[0][0].image.layout) for values in activations),
        n_writing=_n_writing(lens, some, scene.noun),
        n_writing_random=_n_writing(lens, some_random, scene.noun),
        probability_left={
            "top": [after / whole for after in left[: len(COUNTS)]],
            "random": [after / whole for after in left[len(COUNTS) :]],
        },
        caption=caption,
        caption_random=caption_random,
    )


def _n_writing(lens: VisionLens, neurons: pd.DataFrame, noun: str) -> int:
    """How many of some neurons have the noun among their ten tokens."""
    tokens = decode_neurons(lens.model, neurons)["tokens"]
    return sum(noun in [token.strip().lower() for token in own] for own in tokens)


def _captions_without(
    lens: VisionLens, scene: CaptionedScene, without: Sequence[pd.DataFrame], positions: str
) -> list[str]:
    prompt = lens.prompt(scene.picture)
    captions = captions_without(
        lens,
        prompt.tokens.expand(len(without), -1),
        without,
        positions=prompt.at(positions),
        max_new_tokens=20,
        batch_size=len(without),
    )
    lens.forget(prompt)
    return captions


if __name__ == "__main__":
    main()
