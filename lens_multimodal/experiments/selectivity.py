"""Are the found neurons selective for the object? Receptive fields against segmentations (paper section 3.2).

For each noun of the caption whose category is annotated in the picture: the receptive fields (pixels above the 0.95
quantile) of the best interpretable neurons, one by one and of their mean activation, as intersection over union with
the category's segmentation; with as many random neurons of the same layers as a control.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_multimodal.analysis import intersection_over_union, neuron_activations, receptive_field
from lens_multimodal.analysis.receptive_fields import PAPER_QUANTILE
from lens_multimodal.data import Scene
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.experiments.shared.summaries import TOP_AGAINST_RANDOM, Drawing, PairedVerdict, SummaryTable
from lens_multimodal.hooks import random_neurons_like
from lens_multimodal.seeds import generator_for

MEAN_MAP = -1
"""Layer and neuron of a row about the mean over several neurons."""


@dataclass(frozen=True, kw_only=True)
class SelectivitySettings:
    """Which neurons' receptive fields are measured.

    Raises: ValueError for a quantile outside 0 to 1 or no neurons.
    """

    n_neurons: int = 5
    """The best interpretable neurons of each noun; the paper superimposes five."""
    quantile: float = PAPER_QUANTILE
    n_maps: int = 3
    """Neurons of a picture's first noun whose activation maps are kept for the report."""

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1 or self.n_neurons < 1 or self.n_maps < 0:
            raise ValueError(f"expected a quantile from 0 to 1 and at least one neuron, got {self}")


# --- summaries over all pictures ------------------------------------------------------------------------------

UNITS = {"mean": "mean of the neurons", "neuron": "each neuron alone"}

DOMINANT = 0.5
"""A category dominates a picture if it takes at least this share of the annotated area."""

MOST_GROUPS = 24
"""Number of categories shown, those with the most pictures first."""


def _dominant(fields: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean fields of pictures that one category dominates, commonest category first; none for a single category."""
    means = fields[(fields["unit"] == "mean") & (fields["share_of_objects"] >= DOMINANT)]
    pictures = means.groupby(column)["image_id"].nunique().sort_values(ascending=False, kind="stable")
    if len(pictures) < 2:
        return means.head(0)
    shown = list(pictures.index[:MOST_GROUPS])
    kept = means[means[column].isin(shown)]
    kept = kept.assign(order=kept[column].map(shown.index), n_groups=len(pictures))
    return kept.sort_values(["order", "image_id"], kind="stable")


def _by(column: str, plural: str) -> SummaryTable:
    return SummaryTable(
        name=f"overlap by {column}",
        table="fields",
        title=f"Receptive fields by {column}",
        caption=(
            f"The same for the mean activation, by {column} ({{shown}} of {{n_groups}} {plural}, those with most "
            "pictures first); {n} pictures in which the category dominates: it takes at least half of the annotated "
            "area (the paper's choice of pictures, recalled)."
        ),
        rows=lambda tables: _dominant(tables["fields"], column),
        value="iou",
        by=(column, "neurons"),
        facts=lambda rows: {"shown": rows[column].nunique(), "n_groups": rows["n_groups"].iloc[0]},
        drawing=Drawing(kind="bars", x=column, series="neurons", y_title="intersection over union"),
    )


def _recurring(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    fields = tables["fields"]
    top = fields[(fields["unit"] == "neuron") & (fields["neurons"] == "top")]
    return top if (top.groupby("category")["image_id"].nunique() > 1).any() else top.head(0)


def _recurring_neurons(top: pd.DataFrame, _: int) -> pd.DataFrame:
    """The neurons found in most pictures of one category."""
    table = (
        top.groupby(["category", "layer", "neuron"])
        .agg(pictures=("image_id", "nunique"), iou=("iou", "mean"), iou_lowest=("iou", "min"))
        .reset_index()
    )
    table["of"] = table["category"].map(top.groupby("category")["image_id"].nunique())
    table = table[table["of"] > 1].sort_values(
        ["pictures", "iou", "category", "layer", "neuron"], ascending=[False, False, True, True, True], kind="stable"
    )
    columns = ["category", "layer", "neuron", "pictures", "of", "iou", "iou_lowest"]
    return table.head(20)[columns].reset_index(drop=True)


OVERLAP = SummaryTable(
    name="overlap",
    table="fields",
    title="Receptive fields against segmentations",
    caption=(
        "Intersection over union of receptive fields with the segmentation of the noun's category: of the mean "
        "activation of a noun's best interpretable neurons (as in the paper) and of each alone, against random neurons "
        "of the same layers. {n} pictures whose caption names an annotated category; the objects cover {covered:.0%} "
        "of them on average."
    ),
    rows=lambda tables: tables["fields"].assign(receptive_field_of=tables["fields"]["unit"].map(UNITS)),
    value="iou",
    by=("receptive_field_of", "neurons"),
    p_of=TOP_AGAINST_RANDOM,
    facts=lambda rows: {"covered": rows.groupby("image_id")["object_share"].mean().mean()},
    paper_key=lambda row, _: f"selectivity.iou.{row.neurons}" if row.receptive_field_of == UNITS["mean"] else None,
    verdict=PairedVerdict(
        pair=TOP_AGAINST_RANDOM,
        where=lambda rows: rows[rows["unit"] == "mean"],
        value="iou",
        sentence=(
            "The receptive fields of the top neurons overlap the object with an IoU of {first}, those of random "
            "neurons of the same layers with {second}. {said} (n = {n} pictures)."
        ),
        finding="The top neurons overlap it {more}",
        unit="IoU with the object",
    ),
    claim="The receptive fields of the top neurons overlap the object more than those of random neurons.",
    drawing=Drawing(kind="bars", x="receptive_field_of", series="neurons", y_title="intersection over union"),
)

ACROSS = SummaryTable(
    name="across pictures",
    table="fields",
    title="The same neuron across pictures of a category",
    caption=(
        "Best interpretable neurons that recur across pictures whose caption names the category: in how many of these "
        "pictures, and the mean and lowest overlap there. {n} pictures."
    ),
    rows=_recurring,
    frame=_recurring_neurons,
)


# --- rows of one picture ---------------------------------------------------------------------------------------


class Selectivity(Experiment[SelectivitySettings]):
    """Receptive fields of found and of random neurons."""

    name, version = "selectivity", 3
    question = "Do these neurons look at the object?"
    answer = "overlap"
    tables = ("fields", "maps")
    summaries = (OVERLAP, _by("supercategory", "supercategories"), _by("category", "categories"), ACROSS)

    def rows(self, context: Context[SelectivitySettings]) -> dict[str, pd.DataFrame]:
        picture, scene, settings = context.picture, context.picture.scene, context.settings
        fields: list[Row] = []
        maps: list[Row] = []
        supercategories = {o.category: o.supercategory for o in scene.objects}
        for index, noun in enumerate(picture.nouns):
            neurons = _chosen(picture, index, settings.n_neurons)
            if not len(neurons):
                continue
            activations = _maps(picture, neurons)
            category = str(noun.noun.category)
            seg_mask = torch.from_numpy(scene.seg_mask(category)) if noun.in_picture else None
            about = {"image_id": scene.id, "noun": noun.name, "category": noun.noun.category}
            if index == 0:
                maps = [{**about, **row} for row in _kept(picture, neurons, activations, settings, seg_mask)]
            if seg_mask is None:
                continue
            about["supercategory"] = supercategories[category]
            share = {
                "object_share": float(seg_mask.float().mean()),
                "share_of_objects": _share_of_objects(scene, category),
            }
            overlaps = _fields(picture, neurons, activations, seg_mask, settings.quantile)
            fields += [{**about, **share, **row} for row in overlaps]
        return self.frames(fields=fields, maps=maps)


def _share_of_objects(scene: Scene, category: str) -> float:
    """Share of the annotated area that belongs to a category."""
    own = sum(thing.area for thing in scene.objects if thing.category == category)
    total = sum(thing.area for thing in scene.objects)
    return own / total if total else 0.0


def _chosen(picture: PictureState, index: int, count: int) -> pd.DataFrame:
    """The best interpretable neurons of a noun (`neurons` is top) and random ones of their layers, with words."""
    table = picture.top_words[index]
    top = table[table["interpretable"]].head(count)
    if not len(top):
        return top
    generator = generator_for(picture.seed, "selectivity", picture.scene.id, index)
    random = random_neurons_like(picture.lens.model, top, generator)
    return pd.concat([top.assign(neurons="top"), random.assign(neurons="random")], ignore_index=True)


def _maps(picture: PictureState, neurons: pd.DataFrame) -> Float[Tensor, "neuron image_pos"]:
    """Activations at the image positions, in the order of the table."""
    return neuron_activations(picture.lens.model, picture.prompt.tokens, neurons, picture.image_pos)[0].cpu()


def _fields(
    picture: PictureState,
    neurons: pd.DataFrame,
    activations: Float[Tensor, "neuron image_pos"],
    seg_mask: Bool[Tensor, "height width"],
    quantile: float,
) -> Iterator[Row]:
    def measured(activation: Tensor) -> Row:
        mask = receptive_field(activation, picture.layout, quantile=quantile).mask.cpu()
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
    activations: Float[Tensor, "neuron image_pos"],
    settings: SelectivitySettings,
    seg_mask: Bool[Tensor, "height width"] | None,
) -> Iterator[Row]:
    """Maps for the report: the mean over the top neurons, then the first few one by one."""

    def row(layer: int, neuron: int, attribution: float | None, tokens: list[str], activation: Tensor) -> Row:
        mask = receptive_field(activation, picture.layout, quantile=settings.quantile).mask.cpu()
        return {
            "layer": layer,
            "neuron": neuron,
            "attribution": attribution,
            "tokens": tokens,
            "activation": activation.tolist(),
            "layout": picture.layout.to_json(),
            "iou": None if seg_mask is None else intersection_over_union(mask, seg_mask),
        }

    top = neurons[neurons["neurons"] == "top"]
    yield row(MEAN_MAP, MEAN_MAP, None, [], activations[: len(top)].mean(dim=0))
    for i, neuron in enumerate(top.head(settings.n_maps).itertuples()):
        tokens = list(neuron.tokens)
        yield row(int(neuron.layer), int(neuron.neuron), float(neuron.attribution), tokens, activations[i])
