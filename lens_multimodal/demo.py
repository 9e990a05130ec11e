"""`python -m lens_multimodal.demo`: the tiny trio captions its sample pictures; one page shows how, one what holds."""

import argparse
import base64
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import torch
from jinja2 import Environment
from PIL import Image

from lens_multimodal.analysis import effects_of, neuron_activations, receptive_field
from lens_multimodal.attach import attach_vision
from lens_multimodal.hooks import ablate
from lens_multimodal.hooks.random_neurons import random_neurons_like
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.image_prompt import ImagePrompt
from lens_multimodal.short_report import short_report
from lens_multimodal.tiny import scenes_folder
from lens_multimodal.views.plots import ablation_curve, heat_over_picture, layer_histogram

COUNTS = (10, 30, 100, 300)
"""How many of the top neurons are ablated."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample scene: the picture, what is in it, and whether its drawings were known in training."""

    picture: Image.Image
    nouns: tuple[str, ...]
    drawings: str


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Why the model said a word: the neurons behind it and what happens without them."""

    sample: Sample
    caption: str
    word: str
    neurons: pd.DataFrame
    overlays: tuple[Image.Image, ...]
    """The activation of the first neurons of the table over the picture."""
    left: dict[str, list[float]]
    """Share of the word's probability left after ablating `COUNTS` top or random neurons."""


def read_samples(folder: Path, *, each: int) -> list[Sample]:
    """The first single-object scenes of known and of held-out drawings, `each` of both."""
    instances = json.loads((folder / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in instances["categories"]}
    nouns: dict[int, list[str]] = {}
    for annotation in instances["annotations"]:
        nouns.setdefault(annotation["image_id"], []).append(names[annotation["category_id"]])
    chosen = []
    for drawings in ("known", "held_out"):
        singles = [i for i in instances["images"] if i["drawings"] == drawings and len(nouns[i["id"]]) == 1]
        for image in singles[:each]:
            picture = Image.open(folder / "images" / image["file_name"]).convert("RGB")
            chosen.append(Sample(picture=picture, nouns=tuple(nouns[image["id"]]), drawings=drawings))
    return chosen


def is_right(sample: Sample, caption: str) -> bool:
    """Whether a caption says the noun of a single-object scene."""
    return sample.nouns[0] in caption.replace(",", " ").replace(".", " ").split()


def explain(lens: VisionLens, sample: Sample, caption: str, word: str, *, shown: int = 5) -> Explained:
    """The neurons behind `word` in the caption of one picture, their receptive fields, and their ablation."""
    prompt = lens.prompt_before(sample.picture, f" {word}")
    ranked = lens.neurons(prompt, f" {word}", top_k=max(COUNTS))
    first = ranked[ranked["interpretable"]].head(shown)
    first = first if len(first) else ranked.head(shown)
    return Explained(
        sample=sample,
        caption=caption,
        word=word,
        neurons=first,
        overlays=tuple(_overlay(lens, prompt, sample.picture, row) for row in first.itertuples()),
        left=_left(lens, prompt, lens.text.token_id(f" {word}"), ranked),
    )


def page(
    lens: VisionLens,
    samples: Sequence[Sample],
    captions: Sequence[str],
    explained: Sequence[Explained],
    *,
    verdicts: Sequence[str] = (),
    report: str = "",
) -> str:
    """One self-contained HTML page: pictures, captions, neurons, figures.

    Args:
        verdicts: of the paper's experiments in short form.
        report: the name of their report beside this page.
    """
    template = Environment(autoescape=True).from_string(
        files("lens_multimodal").joinpath("views/templates/demo.html").read_text()
    )
    layers = [int(layer) for e in explained for layer in e.neurons["layer"]]
    figures: list[go.Figure] = []
    if explained:
        mean = {
            kind: [sum(e.left[kind][i] for e in explained) / len(explained) for i in range(len(COUNTS))]
            for kind in ("top", "random")
        }
        figures = [ablation_curve(COUNTS, mean), layer_histogram(layers, n_layers=lens.shape.n_layers)]
    return template.render(
        lens=repr(lens),
        samples=[
            {
                "picture": _data_uri(sample.picture),
                "nouns": ", ".join(sample.nouns),
                "drawings": sample.drawings,
                "caption": caption,
                "right": is_right(sample, caption),
            }
            for sample, caption in zip(samples, captions, strict=True)
        ],
        right=sum(is_right(sample, caption) for sample, caption in zip(samples, captions, strict=True)),
        explained=[
            {
                "picture": _data_uri(e.sample.picture),
                "caption": e.caption,
                "word": e.word,
                "drawings": e.sample.drawings,
                "neurons": [
                    {**row, "overlay": _data_uri(overlay), "tokens": " ".join(row["tokens"][:8])}
                    for row, overlay in zip(e.neurons.to_dict("records"), e.overlays, strict=True)
                ],
            }
            for e in explained
        ],
        verdicts=verdicts,
        report=report,
        figures=[figure.to_html(full_html=False, include_plotlyjs=i == 0) for i, figure in enumerate(figures)],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Caption, explain, write the page and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo.html"), help="the HTML page to write")
    parser.add_argument(
        "--pictures", type=int, default=8, help="sample pictures of known and of held-out drawings each"
    )
    options = parser.parse_args(arguments)
    lens = attach_vision()
    samples = read_samples(scenes_folder(), each=options.pictures)
    captions = lens.caption([sample.picture for sample in samples])
    for sample, caption in zip(samples, captions, strict=True):
        sys.stdout.write(f"{sample.drawings:>8}  {', '.join(sample.nouns):<12} -> {caption}\n")
    right = [(s, c) for s, c in zip(samples, captions, strict=True) if is_right(s, c)]
    explained = [explain(lens, sample, caption, sample.nouns[0]) for sample, caption in right[:6]]
    for one in explained:
        best = one.neurons.iloc[0]
        sys.stdout.write(
            f"neurons behind {one.word!r}: layer {best.layer}, neuron {best.neuron} writes{''.join(best.tokens[:6])}; "
            f"without the top {COUNTS[-1]}, {one.left['top'][-1]:.0%} of the probability is left; without as many "
            f"random ones, {one.left['random'][-1]:.0%}\n"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = options.out.with_name(f"{options.out.stem}_report.html")
    verdicts = short_report(lens, page=report, pictures=options.pictures)
    for verdict in verdicts:
        sys.stdout.write(f"* {verdict}\n")
    options.out.write_text(page(lens, samples, captions, explained, verdicts=verdicts, report=report.name))
    sys.stdout.write(f"wrote {options.out} and {report}\n")


def _overlay(lens: VisionLens, prompt: ImagePrompt, picture: Image.Image, neuron: object) -> Image.Image:
    pair = [(int(neuron.layer), int(neuron.neuron))]  # type: ignore[attr-defined]
    grid = neuron_activations(lens.model, prompt.tokens, pair, prompt.image_pos[0])[0, 0].reshape(prompt.grid)
    geometry = lens.vision.geometry(picture.width, picture.height)
    return heat_over_picture(picture, receptive_field(grid, geometry).heat)


def _left(lens: VisionLens, prompt: ImagePrompt, token: int, ranked: pd.DataFrame) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(0)
    top = [ranked.head(count) for count in COUNTS]
    random = [random_neurons_like(lens.model, neurons, generator) for neurons in top]
    hooks = [ablate(lens.model, neurons, positions=prompt.image_pos[0]) for neurons in [*top, *random]]
    effects = effects_of(lens.model, prompt.tokens, hooks, token)
    left = [1 + float(effect.relative_probability_change) for effect in effects]
    return {"top": left[: len(COUNTS)], "random": left[len(COUNTS) :]}


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    main()
