"""From counts to measures of selectivity: intersection over union, average precision, permutation control, recurrence.

Everything is measured on image patches: a neuron's mask over a picture is the union of the patches where it is on, and
a category's is the area it covers. Each patch counts once, whatever its size, and where a model reads a picture in
several grids the patches of all of them count. For one grid of patches of equal size the intersection over union is
that of the pixels (Bau et al. 2017, section 2.2, without interpolation between patches).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_multimodal.atlas.layer_tally import SHARE, LayerTally


@dataclass(frozen=True, kw_only=True, eq=False)
class Measures:
    """Of every neuron of a layer for every category; NaN for categories without an area."""

    iou: Float[Tensor, "neuron category"]
    iou_halves: Float[Tensor, "half neuron category"]
    """Over pictures at even and at odd places of the random order."""
    iou_permuted: Float[Tensor, "neuron category"]
    """With the segmentations of other pictures."""
    average_precision: Float[Tensor, "neuron category"]
    recurrence: Float[Tensor, "half neuron category"]
    """Share of the category's pictures in which the neuron is on at a patch at least half covered by the category."""


def measures(
    tally: LayerTally,
    *,
    on: int,
    parts: Int[Tensor, "half category"],
    pictures: Int[Tensor, "half category"],
    n_patches: Int[Tensor, ""] | int,
) -> Measures:
    """All measures of a layer.

    Args:
        on: the level above which a neuron is on.
        parts: of patches that belong to each category.
        pictures: with each category.
        n_patches: image patches of all pictures.
    """
    area = parts.double() / SHARE
    inside, above = tally.inside.double() / SHARE, tally.above.double()
    even = tally.inside_half.double() / SHARE
    halves = torch.stack(
        [
            _iou(even, tally.above_half.double(), area[0]),
            _iou(inside[on] - even, above[on] - tally.above_half, area[1]),
        ]
    )
    return Measures(
        iou=_iou(inside[on], above[on], area.sum(0)),
        iou_halves=halves,
        iou_permuted=_iou(tally.shifted.double() / SHARE, above[on], area.sum(0)),
        average_precision=average_precision(inside, above, area.sum(0), float(n_patches)),
        recurrence=tally.pictures_on / pictures.double().where(pictures > 0, torch.nan)[:, None],
    )


def average_precision(
    inside: Float[Tensor, "level neuron category"],
    above: Float[Tensor, "level neuron"],
    area: Float[Tensor, " category"],
    n_patches: float,
) -> Float[Tensor, "neuron category"]:
    """Area under precision over recall, patches between two levels taken as tied; a patch counts by its covered share.

    The sum over levels of (R_k - R_{k-1}) P_k from the highest level down, as in scikit-learn, the last level being
    all patches, where precision is the category's share of the whole area.
    """
    area = area.where(area > 0, torch.nan)
    total = torch.zeros_like(inside[0])
    recall_before = torch.zeros_like(inside[0])
    for level in reversed(range(len(inside))):
        recall = inside[level] / area
        precision = inside[level] / above[level].clamp(min=1)[:, None]
        total = total + (recall - recall_before) * precision
        recall_before = recall
    return total + (1 - recall_before) * area / n_patches


def p_values(
    best: Float[np.ndarray, " neuron"], permuted: Float[np.ndarray, " neuron"]
) -> Float[np.ndarray, " neuron"]:
    """How often a neuron's best overlap is as large with the pictures permuted: (1 + as large) / (1 + neurons).

    Args: best: the largest overlap over categories; permuted: the same under permutation, of all neurons.
    """
    ordered = np.sort(permuted)
    as_large = len(ordered) - np.searchsorted(ordered, best, side="left")
    return (1 + as_large) / (1 + len(ordered))


def _iou(inside: Tensor, above: Tensor, area: Tensor) -> Tensor:
    area = area.where(area > 0, torch.nan)
    return inside / (above[:, None] + area - inside)
