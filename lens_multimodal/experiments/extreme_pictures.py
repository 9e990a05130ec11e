"""Pictures to show: the best and worst receptive fields, and the ablations that remove most and least of a word."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pandas as pd

from lens_multimodal.experiments.causal import papers_count
from lens_multimodal.experiments.selectivity import MEAN_MAP

CaseT = TypeVar("CaseT")


@dataclass(frozen=True, kw_only=True)
class Extremes(Generic[CaseT]):
    """The two ends of a ranking; no picture is at both."""

    best: tuple[CaseT, ...]
    worst: tuple[CaseT, ...]
    n_pictures: int
    """Pictures that were ranked."""


def extremes(ranked: pd.DataFrame, make: Callable[[Mapping[Any, Any]], CaseT], *, each: int) -> Extremes[CaseT] | None:
    """The first and last rows of a ranking, made into cases; None without rows."""
    rows = ranked.to_dict("records")
    if not rows:
        return None
    best, worst = rows[: min(each, -(-len(rows) // 2))], rows[::-1][: min(each, len(rows) // 2)]
    return Extremes(
        best=tuple(make(row) for row in best), worst=tuple(make(row) for row in worst), n_pictures=len(rows)
    )


def ranked_fields(tables: Mapping[str, pd.DataFrame], captions: pd.DataFrame) -> pd.DataFrame:
    """Mean activation maps by their overlap with the object, largest first; unsorted if no picture has an overlap.

    Args: captions: the pictures that may be shown, by `image_id`.
    """
    maps = tables.get("selectivity.maps", pd.DataFrame())
    if not len(maps):
        return maps
    means = maps[(maps["neuron"] == MEAN_MAP) & maps["image_id"].isin(captions.index)]
    known = means[means["iou"].notna()]
    return means if not len(known) else known.sort_values(["iou", "image_id"], ascending=[False, True], kind="stable")


def maps_of(tables: Mapping[str, pd.DataFrame], row: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    """All maps of a picture's noun, the mean first."""
    maps = tables["selectivity.maps"]
    own = maps[(maps["image_id"] == row["image_id"]) & (maps["noun"] == row["noun"])]
    return pd.concat([own[own["neuron"] == MEAN_MAP], own[own["neuron"] != MEAN_MAP]]).to_dict("records")


def ranked_ablations(tables: Mapping[str, pd.DataFrame], captions: pd.DataFrame) -> pd.DataFrame:
    """Each picture's first noun by how much of its probability the ablation leaves, least first.

    The count is that of the verdict, or the largest below it that has a control.
    """
    rows = tables.get("causal.ablations", pd.DataFrame())
    if not len(rows):
        return rows
    rows = rows[rows["own"] & rows["image_id"].isin(captions.index)]
    first = rows.groupby("image_id", sort=False)["noun"].first()
    rows = rows[rows["noun"] == rows["image_id"].map(first)]
    means = rows.groupby(["image_id", "noun", "n_neurons", "neurons"])["relative_change"].mean().unstack("neurons")
    if not {"top", "random"} <= set(means.columns):
        return pd.DataFrame()
    both = means.dropna().reset_index()
    both = both[both["n_neurons"] <= papers_count(rows)].sort_values("n_neurons").groupby("image_id").tail(1)
    return both.sort_values(["top", "image_id"], kind="stable")


def captions_after(tables: Mapping[str, pd.DataFrame], row: Mapping[Any, Any]) -> tuple[int, dict[str, str]]:
    """The largest count with a caption both without top and without random neurons, and these two captions."""
    written = tables.get("causal.captions", pd.DataFrame())
    if not len(written):
        return 0, {}
    own = written[(written["image_id"] == row["image_id"]) & (written["noun"] == row["noun"])]
    both = own.groupby("n_neurons")["neurons"].nunique()
    if not (both == 2).any():
        return 0, {}
    count = int(both.index[both == 2].max())
    at = own[own["n_neurons"] == count]
    return count, {kind: str(group["caption_after"].iloc[0]) for kind, group in at.groupby("neurons")}


def example_of(
    tables: Mapping[str, pd.DataFrame], captions: pd.DataFrame
) -> tuple[dict[Any, Any], dict[Any, Any]] | None:
    """The rows of one worked example: a mean activation map, and the ablation of the same noun.

    Pictures whose caption changes without the top neurons and not without random ones come first, then those that lose
    most of the noun's probability.

    Args: captions: the pictures that may be shown, by `image_id`.
    """
    fields, ablations = ranked_fields(tables, captions), ranked_ablations(tables, captions)
    if not len(fields) or not len(ablations):
        return None
    maps = {(row["image_id"], row["noun"]): row for row in fields.to_dict("records")}
    found = [row for row in ablations.to_dict("records") if (row["image_id"], row["noun"]) in maps]
    if not found:
        return None

    def changes(row: Mapping[Any, Any]) -> bool:
        before, (_, after) = captions.loc[row["image_id"], "caption"], captions_after(tables, row)
        return "top" in after and after["top"] != before and after["random"] == before

    best = next((row for row in found if changes(row)), found[0])
    return maps[best["image_id"], best["noun"]], best
