"""Pictures worth looking at: where receptive fields fit the object best and worst, with the neurons' words."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

from lens_multimodal.analysis import ImageGeometry, receptive_field
from lens_multimodal.experiments.report.tables import number
from lens_multimodal.model.vision import Preprocessing
from lens_multimodal.plots import heat_over_picture

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
    iou: float
    maps: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The extremes of a run."""

    best: tuple[Case, ...]
    worst: tuple[Case, ...]
    n_pictures: int
    """Pictures that were to choose from."""
    absent: tuple[str, ...]
    """Picture files that are not there any more."""


def cases_of(tables: Mapping[str, pd.DataFrame], manifest: Mapping[str, Any], *, each: int = 4) -> Cases | None:
    """The pictures whose mean receptive field overlaps most and least with the noun's object.

    Args:
        tables: of the run; `selectivity.maps` and `discovery.captions` are used where they are there.
        manifest: says where the pictures are and how they are preprocessed.
        each: best and worst pictures; never one picture as both.

    Returns: None for a run without receptive fields.
    """
    maps = tables.get("selectivity.maps", pd.DataFrame())
    if not len(maps):
        return None
    mean_maps = maps[(maps["neuron"] == MEAN_MAP) & maps["iou"].notna()]
    ranked = mean_maps.sort_values(["iou", "image_id"], ascending=[False, True], kind="stable")
    each = min(each, len(ranked) // 2)
    captions = tables.get("discovery.captions", pd.DataFrame({"image_id": []})).set_index("image_id")
    folder = Path(manifest["folder"])
    absent: list[str] = []

    def made(chosen: pd.DataFrame) -> tuple[Case, ...]:
        found = []
        for row in chosen.itertuples():
            said = captions.loc[row.image_id] if row.image_id in captions.index else None
            path = folder / str(said["file_name"]) if said is not None else folder / str(row.image_id)
            if not path.is_file():
                absent.append(path.name)
                continue
            own = maps[(maps["image_id"] == row.image_id) & (maps["noun"] == row.noun)]
            found.append(_case(path, own, said, iou=float(row.iou), manifest=manifest))
        return tuple(found)

    best, worst = made(ranked.head(each)), made(ranked.tail(each).iloc[::-1])
    return Cases(best=best, worst=worst, n_pictures=mean_maps["image_id"].nunique(), absent=tuple(absent))


def data_uri(picture: Image.Image) -> str:
    """A picture as text for a page, in the size in which it is shown."""
    small = picture.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _case(path: Path, maps: pd.DataFrame, said: pd.Series | None, *, iou: float, manifest: Mapping[str, Any]) -> Case:
    with Image.open(path) as file:
        picture = file.convert("RGB")
    ordered = pd.concat([maps[maps["neuron"] == MEAN_MAP], maps[maps["neuron"] != MEAN_MAP]])
    return Case(
        picture=data_uri(picture),
        caption=str(said["caption"]) if said is not None else "",
        human_caption=str(said["human_caption"] or "") if said is not None else "",
        noun=str(maps["noun"].iloc[0]),
        iou=iou,
        maps=tuple(_shown(picture, row, manifest["model"]["preprocessing"]) for row in ordered.to_dict("records")),
    )


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


def _words(tokens: Sequence[str] | None) -> str:
    return " ".join(str(token).strip() for token in list(tokens)[:8]) if tokens is not None else ""
