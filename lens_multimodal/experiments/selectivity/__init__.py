"""Are found neurons selective for the object? Receptive fields against segmentations (paper section 3.2).

For each noun of the caption whose category is annotated in the picture: the receptive fields (threshold at the 0.95
quantile) of the best interpretable neurons, one by one and of their mean activation, as intersection over union with
the category's segmentation; against as many random neurons of the same layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_multimodal.analysis import intersection_over_union, neuron_activations, receptive_field
from lens_multimodal.analysis.receptive_fields import PAPER_QUANTILE
from lens_multimodal.data import Scene
from lens_multimodal.experiments.experiment import Context, Summary
from lens_multimodal.experiments.picture import PictureState
from lens_multimodal.experiments.selectivity import summary
from lens_multimodal.hooks import random_neurons_like, read_neurons
from lens_multimodal.seeds import generator_for

Row = dict[str, object]

MEAN_MAP = -1
"""Layer and neuron of a row that is about the mean over several neurons."""


@dataclass(frozen=True, kw_only=True)
class SelectivitySettings:
    """Which neurons' receptive fields are looked at.

    Raises: ValueError for a quantile outside 0 to 1 or no neurons.
    """

    n_neurons: int = 5
    """Best interpretable neurons of each noun; the paper superimposes five."""
    quantile: float = PAPER_QUANTILE
    n_maps: int = 3
    """Neurons of a picture's first noun whose activation maps are kept for the report."""

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1 or self.n_neurons < 1 or self.n_maps < 0:
            raise ValueError(f"expected a quantile from 0 to 1 and at least one neuron, got {self}")


class Selectivity:
    """Receptive fields of found and of random neurons."""

    name = "selectivity"
    version = 2
    tables = ("fields", "maps")
    settings = SelectivitySettings

    def rows(self, context: Context, scene: Scene) -> dict[str, pd.DataFrame]:
        picture: PictureState = context.picture
        settings: SelectivitySettings = context.settings
        fields: list[Row] = []
        maps: list[Row] = []
        supercategories = {o.category: o.supercategory for o in scene.objects}
        for index, noun in enumerate(picture.nouns):
            neurons = _chosen(context, index)
            if not len(neurons):
                continue
            activations = _maps(context, neurons)
            seg_mask = torch.from_numpy(scene.seg_mask(str(noun.noun.category))) if noun.in_picture else None
            about = {"image_id": scene.id, "noun": noun.name, "category": noun.noun.category}
            if index == 0:
                maps = [{**about, **row} for row in _kept(picture, neurons, activations, settings, seg_mask)]
            if seg_mask is None:
                continue
            about["supercategory"] = supercategories[str(noun.noun.category)]
            about["object_share"] = float(seg_mask.float().mean())
            about["share_of_objects"] = _share_of_objects(scene, str(noun.noun.category))
            fields += [{**about, **row} for row in _fields(picture, neurons, activations, seg_mask, settings.quantile)]
        return {"fields": _frame(fields), "maps": _frame(maps)}

    def summarise(self, rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        return summary.summarise(rows, seed=seed)


def _share_of_objects(scene: Scene, category: str) -> float:
    """Share of the annotated area that is this category's."""
    own = sum(thing.area for thing in scene.objects if thing.category == category)
    total = sum(thing.area for thing in scene.objects)
    return own / total if total else 0.0


def _chosen(context: Context, index: int) -> pd.DataFrame:
    """The best interpretable neurons of a noun (`neurons` is top) and their matched random ones, with words."""
    picture: PictureState = context.picture
    table = picture.with_words(picture.top[index])
    top = table[table["interpretable"]].head(context.settings.n_neurons)
    if not len(top):
        return top
    generator = generator_for(context.seed, "selectivity", picture.scene.id, index)
    random = random_neurons_like(context.lens.model, top, generator)
    return pd.concat([top.assign(neurons="top"), random.assign(neurons="random")], ignore_index=True)


def _maps(context: Context, neurons: pd.DataFrame) -> Float[Tensor, "neuron grid_h grid_w"]:
    """Activations over the image patches, in the order of the table."""
    picture: PictureState = context.picture
    pairs = list(zip(neurons["layer"].tolist(), neurons["neuron"].tolist(), strict=True))
    distinct = list(dict.fromkeys(pairs))
    by_layer = read_neurons(context.lens.model, distinct)
    order = {(layer, int(i)): n for n, (layer, i) in enumerate((la, i) for la, idx in by_layer.items() for i in idx)}
    found = neuron_activations(context.lens.model, picture.prompt.tokens, distinct, picture.image_pos)[0]
    return found[[order[pair] for pair in pairs]].reshape(-1, *picture.grid).cpu()


def _fields(
    picture: PictureState,
    neurons: pd.DataFrame,
    activations: Float[Tensor, "neuron grid_h grid_w"],
    seg_mask: Bool[Tensor, "height width"],
    quantile: float,
) -> Iterator[Row]:
    def measured(activation: Tensor) -> Row:
        mask = receptive_field(activation, picture.geometry, quantile=quantile).mask.cpu()
        inside = float((mask & seg_mask).sum() / mask.sum()) if bool(mask.any()) else None
        return {"iou": intersection_over_union(mask, seg_mask), "inside": inside}

    for kind in ("top", "random"):
        rows = [i for i, k in enumerate(neurons["neurons"]) if k == kind]
        mean = {"unit": "mean", "neurons": kind, "layer": MEAN_MAP, "neuron": MEAN_MAP, "rank": -1}
        yield {**mean, **measured(activations[rows].mean(dim=0))}
        for rank, i in enumerate(rows):
            layer, neuron = int(neurons["layer"].iloc[i]), int(neurons["neuron"].iloc[i])
            own = {"unit": "neuron", "neurons": kind, "layer": layer, "neuron": neuron, "rank": rank}
            yield {**own, **measured(activations[i])}


def _kept(
    picture: PictureState,
    neurons: pd.DataFrame,
    activations: Float[Tensor, "neuron grid_h grid_w"],
    settings: SelectivitySettings,
    seg_mask: Bool[Tensor, "height width"] | None,
) -> Iterator[Row]:
    """Maps for the report: the mean over the top neurons, then the first few one by one."""

    def row(layer: int, neuron: int, attribution: float | None, tokens: list[str], activation: Tensor) -> Row:
        mask = receptive_field(activation, picture.geometry, quantile=settings.quantile).mask.cpu()
        return {
            "layer": layer,
            "neuron": neuron,
            "attribution": attribution,
            "tokens": tokens,
            "activation": activation.flatten().tolist(),
            "grid_h": picture.grid[0],
            "grid_w": picture.grid[1],
            "iou": None if seg_mask is None else intersection_over_union(mask, seg_mask),
        }

    top = neurons[neurons["neurons"] == "top"]
    yield row(MEAN_MAP, MEAN_MAP, None, [], activations[: len(top)].mean(dim=0))
    for i, neuron in enumerate(top.head(settings.n_maps).itertuples()):
        tokens = list(neuron.tokens)
        yield row(int(neuron.layer), int(neuron.neuron), float(neuron.attribution), tokens, activations[i])


def _frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows) if rows else pd.DataFrame({"image_id": []})
