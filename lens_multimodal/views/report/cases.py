"""Pictures worth looking at: where receptive fields fit the object, and ablations the word, best and worst."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd
import torch
from PIL import Image

from lens_multimodal.analysis import ImageGeometry, receptive_field
from lens_multimodal.experiments.causal.summary import papers_count
from lens_multimodal.image.preprocessing import Preprocessing
from lens_multimodal.views.plots import heat_over_picture
from lens_multimodal.views.report.tables import number

LONGEST_SIDE = 320
"""Pixels of an embedded picture."""

MEAN_MAP = -1
"""Layer and neuron of the row that holds the mean over the top neurons."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture with one activation map over it."""

    image: str
    """A data URI."""
    label: str
    tokens: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One picture: what the model said, and where the neurons behind the word are active."""

    picture: str
    caption: str
    human_caption: str
    noun: str
    iou: float | None
    """None where the noun's object is not annotated in the picture."""
    maps: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """One picture, and what became of its caption without the neurons behind a word."""

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


CaseT = TypeVar("CaseT", Case, Ablated)


@dataclass(frozen=True, kw_only=True)
class Extremes(Generic[CaseT]):
    """The ends of a ranking; no picture is at both."""

    best: tuple[CaseT, ...]
    worst: tuple[CaseT, ...]
    n_pictures: int
    """Pictures that were to choose from."""


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The pictures that a report shows; None where the run has no such rows."""

    fields: Extremes[Case] | None
    ablations: Extremes[Ablated] | None
    absent: tuple[str, ...]
    """Picture files that are not there any more."""


def cases_of(tables: Mapping[str, pd.DataFrame], manifest: Mapping[str, Any], *, each: int = 4) -> Cases:
    """The pictures at both ends: overlap of receptive field and object, and what an ablation leaves of the word.

    Args:
        tables: of the run; `discovery.captions` with `selectivity.maps`, `causal.ablations` and `causal.captions` are
            used where they are there.
        manifest: says where the pictures are and how they are preprocessed.
        each: best and worst pictures.
    """
    captions = tables.get("discovery.captions", pd.DataFrame())
    if not len(captions):
        return Cases(fields=None, ablations=None, absent=())
    folder = Path(manifest["folder"])
    captions = captions.set_index("image_id")
    absent = [str(name) for name in captions["file_name"] if not (folder / name).is_file()]
    there = captions[~captions["file_name"].isin(absent)]
    fields, ablations = _ranked_fields(tables, there), _ranked_ablations(tables, there)
    maps = tables.get("selectivity.maps", pd.DataFrame())
    rewritten = tables.get("causal.captions", pd.DataFrame())
    return Cases(
        fields=_extremes(fields, lambda row: _case(folder, maps, there.loc[row["image_id"]], row, manifest), each),
        ablations=_extremes(ablations, lambda row: _ablated(folder, rewritten, there.loc[row["image_id"]], row), each),
        absent=tuple(absent),
    )


def data_uri(picture: Image.Image) -> str:
    """A picture as text for a page."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _ranked_fields(tables: Mapping[str, pd.DataFrame], captions: pd.DataFrame) -> pd.DataFrame:
    """Mean maps by their overlap, largest first; as they come where no picture has one."""
    maps = tables.get("selectivity.maps", pd.DataFrame())
    if not len(maps):
        return maps
    means = maps[(maps["neuron"] == MEAN_MAP) & maps["image_id"].isin(captions.index)]
    known = means[means["iou"].notna()]
    return means if not len(known) else known.sort_values(["iou", "image_id"], ascending=[False, True], kind="stable")


def _ranked_ablations(tables: Mapping[str, pd.DataFrame], captions: pd.DataFrame) -> pd.DataFrame:
    """Each picture's first noun at the count of the verdict or the largest below it that has a control, by what is left
    of it, least first."""
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


def _extremes(ranked: pd.DataFrame, make: Callable[[Any], CaseT], each: int) -> Extremes[CaseT] | None:
    rows = ranked.to_dict("records")
    if not rows:
        return None
    best, worst = rows[: min(each, -(-len(rows) // 2))], rows[::-1][: min(each, len(rows) // 2)]
    return Extremes(
        best=tuple(make(row) for row in best), worst=tuple(make(row) for row in worst), n_pictures=len(rows)
    )


def _case(
    folder: Path, maps: pd.DataFrame, said: pd.Series, row: Mapping[Any, Any], manifest: Mapping[str, Any]
) -> Case:
    picture = _open(folder / str(said["file_name"]))
    own = maps[(maps["image_id"] == row["image_id"]) & (maps["noun"] == row["noun"])]
    ordered = pd.concat([own[own["neuron"] == MEAN_MAP], own[own["neuron"] != MEAN_MAP]])
    return Case(
        picture=data_uri(picture),
        caption=str(said["caption"]),
        human_caption=str(said["human_caption"] or ""),
        noun=str(row["noun"]),
        iou=None if pd.isna(row["iou"]) else float(row["iou"]),
        maps=tuple(_shown(picture, one, manifest["model"]["preprocessing"]) for one in ordered.to_dict("records")),
    )


def _ablated(folder: Path, rewritten: pd.DataFrame, said: pd.Series, row: Mapping[Any, Any]) -> Ablated:
    n_caption, after = _captions_after(rewritten, row)
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


def _captions_after(rewritten: pd.DataFrame, row: Mapping[Any, Any]) -> tuple[int, dict[str, str]]:
    """The largest count for which a caption was written without top and without random neurons, and both captions."""
    if not len(rewritten):
        return 0, {}
    own = rewritten[(rewritten["image_id"] == row["image_id"]) & (rewritten["noun"] == row["noun"])]
    both = own.groupby("n_neurons")["neurons"].nunique()
    if not (both == 2).any():
        return 0, {}
    count = int(both.index[both == 2].max())
    at = own[own["n_neurons"] == count]
    return count, {kind: str(group["caption_after"].iloc[0]) for kind, group in at.groupby("neurons")}


def _open(path: Path) -> Image.Image:
    """A picture in the size in which it is shown: maps over it are drawn at that size too."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return picture


def _shown(picture: Image.Image, row: Mapping[Any, Any], preprocessing: Mapping[str, Any]) -> Shown:
    geometry = ImageGeometry.of(
        Preprocessing.from_json(dict(preprocessing)),
        width=picture.width,
        height=picture.height,
        grid_h=int(row["grid_h"]),
        grid_w=int(row["grid_w"]),
    )
    grid = torch.tensor(list(row["activation"]), dtype=torch.float32).reshape(int(row["grid_h"]), int(row["grid_w"]))
    is_mean = row["neuron"] == MEAN_MAP
    name = "mean of the top neurons" if is_mean else f"layer {row['layer']}, neuron {row['neuron']}"
    overlap = "" if pd.isna(row["iou"]) else f", IoU {number(float(row['iou']))}"
    return Shown(
        image=data_uri(heat_over_picture(picture, receptive_field(grid, geometry).heat)),
        label=name + overlap,
        tokens=_words(row["tokens"]),
    )


def _words(tokens: Iterable[str] | None) -> str:
    return " ".join(str(token).strip() for token in list(tokens)[:8]) if tokens is not None else ""
