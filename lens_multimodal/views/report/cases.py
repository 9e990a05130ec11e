"""Pictures of a report: the best and worst receptive fields, and the ablations that remove most and least of a word."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

from lens_multimodal.analysis import receptive_field
from lens_multimodal.experiments.extreme_pictures import (
    Extremes,
    captions_after,
    example_of,
    extremes,
    maps_of,
    ranked_ablations,
    ranked_fields,
)
from lens_multimodal.experiments.selectivity import MEAN_MAP
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.views.html import data_uri
from lens_multimodal.views.plots import heat_over_picture
from lens_multimodal.views.report.tables import number

LONGEST_SIDE = 320
"""Pixels of an embedded picture."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture with one activation map over it."""

    image: str
    """A data URI."""
    label: str
    tokens: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One picture: the model's caption, and where the neurons behind its word are active."""

    picture: str
    caption: str
    human_caption: str
    noun: str
    iou: float | None
    """None where the noun's object is not annotated in the picture."""
    maps: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """One picture, and its caption without the neurons behind a word."""

    picture: str
    noun: str
    caption: str
    caption_after: str
    """Without the top `n_caption` neurons; "" where no caption was written with a control."""
    caption_random: str
    """Without as many random ones."""
    n_caption: int
    n_neurons: int
    left: float
    """Share of the word's probability that was left without the top `n_neurons` neurons."""
    left_random: float


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The pictures of a report; None where the run has no such rows."""

    fields: Extremes[Case] | None
    ablations: Extremes[Ablated] | None
    absent: tuple[str, ...]
    """Image files that are no longer there."""
    example: tuple[Case, Ablated] | None = None
    """One noun from its neurons to the caption without them; see `extreme_pictures.example_of`."""


def cases_of(tables: Mapping[str, pd.DataFrame], manifest: Mapping[str, Any], *, each: int = 4) -> Cases:
    """The pictures with the best and worst overlap of receptive field and object, and of ablation and word.

    Args:
        tables: of the run; those used are `discovery.captions`, `selectivity.maps`, `causal.ablations` and
            `causal.captions`, where present.
        manifest: says where the pictures are and how they are preprocessed.
        each: how many best and how many worst pictures.
    """
    captions = tables.get("discovery.captions", pd.DataFrame())
    if not len(captions):
        return Cases(fields=None, ablations=None, absent=())
    folder = Path(manifest["folder"])
    captions = captions.set_index("image_id")
    absent = [str(name) for name in captions["file_name"] if not (folder / name).is_file()]
    there = captions[~captions["file_name"].isin(absent)]

    def field(row: Mapping[Any, Any]) -> Case:
        return _case(folder, there.loc[row["image_id"]], row, maps_of(tables, row))

    def ablated(row: Mapping[Any, Any]) -> Ablated:
        return _ablated(folder, there.loc[row["image_id"]], row, captions_after(tables, row))

    chosen = example_of(tables, there)
    return Cases(
        example=None if chosen is None else (field(chosen[0]), ablated(chosen[1])),
        fields=extremes(ranked_fields(tables, there), field, each=each),
        ablations=extremes(ranked_ablations(tables, there), ablated, each=each),
        absent=tuple(absent),
    )


def _case(
    folder: Path,
    said: pd.Series,
    row: Mapping[Any, Any],
    maps: Iterable[Mapping[Any, Any]],
) -> Case:
    picture = _open(folder / str(said["file_name"]))
    return Case(
        picture=data_uri(picture),
        caption=str(said["caption"]),
        human_caption=str(said["human_caption"] or ""),
        noun=str(row["noun"]),
        iou=None if pd.isna(row["iou"]) else float(row["iou"]),
        maps=tuple(_shown(picture, one) for one in maps),
    )


def _ablated(folder: Path, said: pd.Series, row: Mapping[Any, Any], written: tuple[int, dict[str, str]]) -> Ablated:
    n_caption, after = written
    return Ablated(
        picture=data_uri(_open(folder / str(said["file_name"]))),
        noun=str(row["noun"]),
        caption=str(said["caption"]),
        caption_after=after.get("top", ""),
        caption_random=after.get("random", ""),
        n_caption=n_caption,
        n_neurons=int(row["n_neurons"]),
        left=1 + float(row["top"]),
        left_random=1 + float(row["random"]),
    )


def _open(path: Path) -> Image.Image:
    """A picture at the size in which it is shown; maps are drawn over it at that size too."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return picture


def _shown(picture: Image.Image, row: Mapping[Any, Any]) -> Shown:
    layout = ImageLayout.from_json(row["layout"]).for_picture(picture.width, picture.height)
    activation = torch.tensor(list(row["activation"]), dtype=torch.float32)
    is_mean = row["neuron"] == MEAN_MAP
    name = "mean of the top neurons" if is_mean else f"layer {row['layer']}, neuron {row['neuron']}"
    overlap = "" if pd.isna(row["iou"]) else f", IoU {number(float(row['iou']))}"
    return Shown(
        image=data_uri(heat_over_picture(picture, receptive_field(activation, layout).heat)),
        label=name + overlap,
        tokens=_words(row["tokens"]),
    )


def _words(tokens: Iterable[str] | None) -> str:
    return " ".join(str(token).strip() for token in list(tokens)[:8]) if tokens is not None else ""
