"""The demo's page: captions of sample pictures, the neurons behind their words, figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from lens_multimodal.analysis import ReceptiveField
from lens_multimodal.prompt.image_prompt import PROMPT
from lens_multimodal.views.html import data_uri, render
from lens_multimodal.views.plots import ablation_curve, heat_over_picture, layer_histogram

SHOWN_TOKENS = 8
"""Decoded tokens shown of one neuron."""

MOST_SHOWN = 6
"""Captions whose neurons are shown; tables and figures count all of them."""

TOP_WRITING = 20
"""Top neurons in which the word itself is looked for."""


@dataclass(frozen=True, kw_only=True)
class CaptionedScene:
    """A sample scene with the model's caption."""

    picture: Image.Image
    noun: str
    """Its one object."""
    drawings: str
    """`known` or `held_out`: whether the encoder was trained on pictures of this object's drawings."""
    caption: str

    @property
    def names_its_object(self) -> bool:
        return self.noun in self.caption.replace(",", " ").replace(".", " ").split()


@dataclass(frozen=True, kw_only=True)
class NeuronsAt:
    """The neurons behind one word of a caption at some positions, and what happens without them."""

    neurons: pd.DataFrame
    """Those that are shown."""
    fields: tuple[ReceptiveField, ...]
    """Where on the picture each row of `neurons` is active."""
    n_writing: int
    """How many of the top `TOP_WRITING` have the word among the ten tokens that they write."""
    n_writing_random: int
    """The same of as many random neurons of the same layers."""
    probability_left: dict[str, list[float]]
    """Share of the word's probability left after ablating the `top` or as many `random` neurons, for each count."""
    caption: str
    """Without the largest number of top neurons."""
    caption_random: str
    """Without as many random neurons."""


@dataclass(frozen=True, kw_only=True)
class ExplainedWord:
    """The neurons behind one word of a caption, where the picture is read and where the word is predicted."""

    scene: CaptionedScene
    image: NeuronsAt
    last: NeuronsAt

    @property
    def word(self) -> str:
        return self.scene.noun

    @property
    def changed(self) -> bool:
        """Whether the top neurons where the picture is read change the caption when ablated, and random ones do not."""
        return self.image.caption != self.scene.caption == self.image.caption_random


def page(
    scenes: Sequence[CaptionedScene],
    explained: Sequence[ExplainedWord],
    *,
    lens: str,
    n_layers: int,
    counts: Sequence[int],
    verdicts: Sequence[str] = (),
    report: str = "",
) -> str:
    """One self-contained HTML page.

    Args:
        explained: the first of them are shown, all are counted.
        lens: the lens in one line (`repr(lens)`).
        n_layers: of the language model.
        counts: how many neurons were ablated.
        verdicts: of the paper's experiments, one sentence each.
        report: the name of their report beside this page.
    """
    shown = [
        {"scene": one.scene, "changed": one.changed, "places": [_place(one, at) for at in ("image", "last")]}
        for one in explained[:MOST_SHOWN]
    ]
    figures = _figures(explained, n_layers=n_layers, counts=counts)
    return render(
        "demo.html",
        title="lens_multimodal: what the tiny trio sees",
        prompt=PROMPT,
        lens=lens,
        scenes=scenes,
        n_right=sum(scene.names_its_object for scene in scenes),
        explained=shown,
        n_explained=len(explained),
        writing={at: _writing(explained, at) for at in ("image", "last")},
        top_writing=TOP_WRITING,
        most=max(counts),
        verdicts=verdicts,
        report=report,
        figures=figures,
        plotly=get_plotlyjs() if figures else "",
    )


def _figures(explained: Sequence[ExplainedWord], *, n_layers: int, counts: Sequence[int]) -> list[go.Figure]:
    if not explained:
        return []
    mean = {
        kind: [
            sum(one.image.probability_left[kind][i] for one in explained) / len(explained) for i in range(len(counts))
        ]
        for kind in ("top", "random")
    }
    layers = [int(layer) for one in explained for layer in one.image.neurons["layer"]]
    return [ablation_curve(counts, mean), layer_histogram(layers, n_layers=n_layers)]


def _writing(explained: Sequence[ExplainedWord], at: str) -> dict[str, int]:
    """In how many pictures a top neuron, or one of as many random ones, writes the word."""
    places: list[NeuronsAt] = [getattr(one, at) for one in explained]
    return {
        "top": sum(place.n_writing > 0 for place in places),
        "random": sum(place.n_writing_random > 0 for place in places),
    }


def _place(one: ExplainedWord, at: str) -> dict[str, Any]:
    place: NeuronsAt = getattr(one, at)
    overlays = [data_uri(heat_over_picture(one.scene.picture, field.heat)) for field in place.fields]
    neurons = [
        {
            **row,
            "overlay": overlay,
            "tokens": [
                (token.strip(), token.strip().lower() == one.word.lower()) for token in row["tokens"][:SHOWN_TOKENS]
            ],
        }
        for row, overlay in zip(place.neurons.to_dict("records"), overlays, strict=True)
    ]
    return {
        "at": at,
        "neurons": neurons,
        "n_writing": place.n_writing,
        "caption": place.caption,
        "caption_random": place.caption_random,
    }
