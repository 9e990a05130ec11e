"""A neuron on one page: where it looks, what it writes, what it adds to a word, what happens without it."""

from typing import Any

from PIL import Image
from torch import Tensor

from lens_multimodal.analysis import Effect
from lens_multimodal.atlas import AtlasEntry, DrivingPicture
from lens_multimodal.neuron_card import NeuronCard, SampleActivation
from lens_multimodal.views.html import data_uri, fragment, plain_row, plain_rows
from lens_multimodal.views.notebook.embedded_pictures import (
    SIDE,
    cell_style,
    driving_picture,
    field_over_picture,
    shown_size,
)
from lens_multimodal.views.notebook.shown import html_of, title_of
from lens_multimodal.views.plots.labels import visible

SHOWN_SAMPLES = 8
SAMPLE_SIDE = 96


@html_of.register
def card_html(card: NeuronCard) -> str:
    """The card laid out; hovering over an image patch shows its number."""
    before = float(card.effect.probability_before[0])
    ablated = [
        ("image positions", "where the picture is read", card.effect, float(card.attribution.max())),
        ("last position", "where the word is predicted", card.last_effect, card.last_attribution),
    ]
    scale = max(before, *(float(effect.probability_after[0]) for _, _, effect, _ in ablated)) or 1.0
    return fragment(
        "card.html",
        card=card,
        about=f"for {visible(card.target)} after “{card.text}”; "
        f"{'weights as trained' if card.weight_processing == 'none' else f'weights: {card.weight_processing}'}",
        panels=[_activation_panel(card), _attribution_panel(card)],
        before=before,
        before_text=f"{before:.4g}",
        scale=scale,
        ablated=[
            {
                "where": where,
                "meaning": meaning,
                "after": float(effect.probability_after[0]),
                "after_text": f"{float(effect.probability_after[0]):.4g}",
                "note": f"attribution {largest:+.3g} logits; {_effect_note(effect, card.target)}",
            }
            for where, meaning, effect, largest in ablated
        ],
        samples=[_sample(sample) for sample in card.samples[:SHOWN_SAMPLES]],
        n_samples=len(card.samples),
        samples_note=_samples_note(card.samples),
        known=None if card.atlas is None else _known(card.atlas),
    )


@title_of.register
def _card_title(card: NeuronCard) -> str:
    return f"Layer {card.layer}, neuron {card.neuron}"


def _activation_panel(card: NeuronCard) -> dict[str, Any]:
    uri = data_uri(field_over_picture(card.picture, card.field), side=SIDE)
    inside = float(card.field.mask.float().mean())
    note = (
        f"activation {float(card.activations.min()):.3g} to {float(card.activations.max()):.3g}; "
        f"outlined: above {card.field.threshold:.3g}, {inside:.1%} of the picture"
    )
    return _panel(card, "Receptive field", uri, card.activations, "activation", note, coloured=False)


def _attribution_panel(card: NeuronCard) -> dict[str, Any]:
    note = (
        f"largest {float(card.attribution.max()):.3g}, sum {float(card.attribution.sum()):+.3g} logits of "
        f"{visible(card.target)}; orange raises it, blue lowers it"
    )
    uri = data_uri(card.picture.convert("L"), side=SIDE)
    return _panel(
        card, f"Attribution to {visible(card.target)}", uri, card.attribution, "attribution", note, coloured=True
    )


def _panel(
    card: NeuronCard, title: str, uri: str, values: Tensor, label: str, note: str, *, coloured: bool
) -> dict[str, Any]:
    width, height = card.picture.size
    largest = float(values.abs().max())
    cells = []
    for grid in reversed(card.layout.grids):  # the finest grid last, on top
        for index in grid.indices:
            box = card.layout.box(index)
            if box is None:
                continue
            value = float(values[index])
            style = cell_style(box, width=width, height=height)
            if coloured and largest > 0:
                rgb = "224,90,12" if value > 0 else "47,128,237"
                style += f";background:rgba({rgb},{0.9 * abs(value) / largest:.3f})"
            cells.append({"style": style, "name": f"{card.layout.name(index)}: {label} {value:.3g}"})
    shown_width, shown_height = shown_size(width, height)
    return {"title": title, "uri": uri, "cells": cells, "note": note, "width": shown_width, "height": shown_height}


def _effect_note(effect: Effect, target: str) -> str:
    change = _percent(float(effect.relative_probability_change[0]))
    return (
        f"probability of {visible(target)}: {change}; logit {float(effect.logit_change[0]):+.3g}; rank "
        f"{int(effect.rank_before[0])} → {int(effect.rank_after[0])} (0 is the top)"
    )


def _percent(change: float) -> str:
    """With its sign, to a tenth of a percent, or to one digit if that is smaller; plain 0% only for no change."""
    percent = 100 * change
    if percent == 0:
        return "0%"
    return f"{percent:+.1f}%" if abs(percent) >= 0.05 else f"{percent:+.1g}%"


def _sample(sample: SampleActivation) -> dict[str, Any]:
    width, height = shown_size(*sample.picture.size, side=SAMPLE_SIDE)
    return {
        "index": sample.index,
        "uri": data_uri(field_over_picture(sample.picture, sample.field, side=SAMPLE_SIDE), side=SAMPLE_SIDE),
        "width": width,
        "height": height,
        "note": f"max {sample.largest:.3g}",
    }


def _known(entry: AtlasEntry) -> dict[str, Any]:
    """What an atlas says; pictures are embedded, and the link works where files of this machine open."""

    def src(picture: DrivingPicture) -> str | None:
        if picture.small is None:
            return None
        with Image.open(picture.small) as small:
            return data_uri(small, side=2 * SAMPLE_SIDE)

    return {
        "n_pictures": entry.n_pictures,
        "page": entry.page and entry.page.resolve().as_uri(),
        "facts": plain_row(entry.facts),
        "concepts": plain_rows(entry.concepts),
        "pictures": [driving_picture(p, src=src(p), side=SAMPLE_SIDE) for p in entry.pictures[:SHOWN_SAMPLES]],
    }


def _samples_note(samples: tuple[SampleActivation, ...]) -> str:
    if not samples:
        return ""
    largest = [sample.largest for sample in samples]
    return f"largest activation on the image: mean {sum(largest) / len(largest):.3g}, least {min(largest):.3g}"
