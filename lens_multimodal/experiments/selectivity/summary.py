"""Receptive fields over pictures and categories."""

import pandas as pd

from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.statistics import ENOUGH, in_words, interval_table, is_above, paired_table, too_few

UNITS = {"mean": "mean of the neurons", "neuron": "each neuron alone"}

DOMINANT = 0.5
"""Least share of the annotated area of a picture's dominant category."""

MOST_GROUPS = 24
"""Categories shown, those of most pictures first."""


def summarise(rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
    """`overlap`, `overlap by category`, `overlap by supercategory`, `across pictures`."""
    fields = rows["fields"]
    if not len(fields):
        return {}
    found = {"overlap": _overlap(fields, seed)}
    means = fields[(fields["unit"] == "mean") & (fields["share_of_objects"] >= DOMINANT)]
    for column, plural in (("supercategory", "supercategories"), ("category", "categories")):
        if means[column].nunique() > 1:
            found[f"overlap by {column}"] = _by(means, column, plural, seed)
    top = fields[(fields["unit"] == "neuron") & (fields["neurons"] == "top")]
    if (top.groupby("category")["image_id"].nunique() > 1).any():
        found["across pictures"] = _across(top)
    return found


def _overlap(fields: pd.DataFrame, seed: int) -> Summary:
    frame = interval_table(fields, "iou", by=["unit", "neurons"], seed=seed)
    paired = paired_table(fields, "iou", pair="neurons", first="top", second="random", by=["unit"], seed=seed)
    frame = frame.merge(paired[["unit", "p"]].rename(columns={"p": "p top against random"}), on="unit", sort=False)
    n = fields["image_id"].nunique()
    return Summary(
        frame=frame.assign(unit=frame["unit"].map(UNITS)).rename(columns={"unit": "receptive_field_of"}),
        title="Receptive fields against segmentations",
        caption=(
            f"Intersection over union of receptive fields with the segmentation of the noun's category: of the mean "
            f"activation of a noun's best interpretable neurons (as in the paper) and of each alone, against "
            f"random neurons of the same layers. {n} pictures whose caption names an annotated category; the "
            f"objects cover {fields.groupby('image_id')['object_share'].mean().mean():.0%} of them on average."
        ),
        n_pictures=n,
        verdict=_verdict(frame, paired),
        paper_keys=tuple(f"selectivity.iou.{r.neurons}" if r.unit == "mean" else None for r in frame.itertuples()),
        drawing=Drawing(
            kind="bars", x="receptive_field_of", series="neurons", x_title="", y_title="intersection over union"
        ),
    )


def _verdict(frame: pd.DataFrame, paired: pd.DataFrame) -> str:
    of_means = paired[paired["unit"] == "mean"]
    if not len(of_means) or of_means["n"].iloc[0] < ENOUGH:
        return too_few(int(of_means["n"].sum()))
    row = of_means.iloc[0]
    means = frame[frame["unit"] == "mean"].set_index("neurons")
    top, random = (in_words(means.loc[k], digits=3) for k in ("top", "random"))
    said = {True: "overlap the object MORE than", False: "overlap the object LESS than", None: "do NOT differ from"}
    compared = said[is_above(row)]
    return (
        f"Receptive fields of the found neurons {compared} those of random neurons of the "
        f"same layers: IoU {top} against {random} (n = {int(row['n'])} pictures)."
    )


def _by(means: pd.DataFrame, column: str, plural: str, seed: int) -> Summary:
    pictures = means.groupby(column)["image_id"].nunique().sort_values(ascending=False, kind="stable")
    shown = list(pictures.index[:MOST_GROUPS])
    kept = means[means[column].isin(shown)]
    kept = kept.assign(order=kept[column].map(shown.index)).sort_values(["order", "image_id"], kind="stable")
    frame = interval_table(kept, "iou", by=[column, "neurons"], seed=seed)
    n = kept["image_id"].nunique()
    return Summary(
        frame=frame,
        title=f"Receptive fields by {column}",
        caption=(
            f"The same for the mean activation, by {column} ({len(shown)} of {len(pictures)} {plural}, those with most "
            f"pictures first); {n} pictures in which the category dominates: it takes at least half of what is "
            f"annotated (the paper's choice of pictures, recalled)."
        ),
        n_pictures=n,
        drawing=Drawing(kind="bars", x=column, series="neurons", x_title=column, y_title="intersection over union"),
    )


def _across(top: pd.DataFrame) -> Summary:
    """The neurons found in most pictures of one category."""
    of_category = top.groupby("category")["image_id"].nunique()
    table = (
        top.groupby(["category", "layer", "neuron"])
        .agg(pictures=("image_id", "nunique"), iou=("iou", "mean"), iou_lowest=("iou", "min"))
        .reset_index()
    )
    table["of"] = table["category"].map(of_category)
    table = table[table["of"] > 1].sort_values(
        ["pictures", "iou", "category", "layer", "neuron"], ascending=[False, False, True, True, True], kind="stable"
    )
    columns = ["category", "layer", "neuron", "pictures", "of", "iou", "iou_lowest"]
    n = top["image_id"].nunique()
    return Summary(
        frame=table.head(20)[columns].reset_index(drop=True),
        title="The same neuron across pictures of a category",
        caption=(
            f"Neurons among the best interpretable ones in most pictures of a category whose caption names it: in how "
            f"many of how many pictures, and the mean and lowest overlap there. {n} pictures."
        ),
        n_pictures=n,
    )
