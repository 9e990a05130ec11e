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
class ExplainedWord:
    """The neurons behind one word of a caption, and the word's probability without them."""

    scene: CaptionedScene
    neurons: pd.DataFrame
    fields: tuple[ReceptiveField, ...]
    """One for each row of `neurons`."""
    probability_left: dict[str, list[float]]
    """Share of the word's probability left after ablating the `top` or as many `random` neurons, for each count."""

    @property
    def word(self) -> str:
        return self.scene.noun


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
        lens: the lens in one line (`repr(lens)`).
        n_layers: of the language model.
        counts: how many neurons were ablated.
        verdicts: of the paper's experiments, one sentence each.
        report: the name of their report beside this page.
    """
    figures = _figures(explained, n_layers=n_layers, counts=counts)
    return render(
        "demo.html",
        title="lens_multimodal: what the tiny trio sees",
        prompt=PROMPT,
        lens=lens,
        scenes=scenes,
        n_right=sum(scene.names_its_object for scene in scenes),
        explained=[{"scene": one.scene, "neurons": _neurons(one)} for one in explained],
        verdicts=verdicts,
        report=report,
        figures=figures,
        plotly=get_plotlyjs() if figures else "",
    )


def _figures(explained: Sequence[ExplainedWord], *, n_layers: int, counts: Sequence[int]) -> list[go.Figure]:
    if not explained:
        return []
    mean = {
        kind: [sum(one.probability_left[kind][i] for one in explained) / len(explained) for i in range(len(counts))]
        for kind in ("top", "random")
    }
    layers = [int(layer) for one in explained for layer in one.neurons["layer"]]
    return [ablation_curve(counts, mean), layer_histogram(layers, n_layers=n_layers)]


def _neurons(one: ExplainedWord) -> list[dict[Any, Any]]:
    overlays = [data_uri(heat_over_picture(one.scene.picture, field.heat)) for field in one.fields]
    return [
        {**row, "overlay": overlay, "tokens": " ".join(row["tokens"][:SHOWN_TOKENS])}
        for row, overlay in zip(one.neurons.to_dict("records"), overlays, strict=True)
    ]
