"""Pictures without their object: what stands in its place, and which neurons notice."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.experiments.controls.conditions import Conditions
from lens_multimodal.experiments.controls.models import vectors_of
from lens_multimodal.experiments.experiment import Context
from lens_multimodal.hooks import record
from lens_multimodal.precision import wide
from lens_multimodal.seeds import generator_for


def mean_vector(context: Context) -> Float[Tensor, " d_model"]:
    """Mean image vector over pictures of the data set, the same for every picture (Neo et al. 2024)."""

    def make() -> Tensor:
        order = torch.randperm(len(context.scenes), generator=generator_for(context.seed, "follow_ups", "mean vector"))
        total, count = torch.zeros(context.lens.shape.d_model, dtype=torch.float64), 0
        for index in order.tolist():
            if count == context.settings.mean_over:
                break
            try:
                picture = context.scenes[index].open()
            except (OSError, ValueError):
                continue
            total += vectors_of(context.lens, picture).double().mean(dim=0).cpu()
            count += 1
        return total / max(count, 1)

    made: Tensor = context.once("follow_ups.mean vector", make)
    return made.to(context.picture.vectors)


def activation_differences(conditions: Conditions, *, of: str, to: str, top_k: int) -> pd.DataFrame:
    """The neurons that are most active with something and least without it: the largest differences over positions.

    Args: of, to: names of two conditions; the difference is `of - to` at its largest image position.
    Returns: `layer`, `neuron`, `difference`, largest first.
    """
    rows = [conditions.names.index(name) for name in (of, to)]
    model = conditions.lens.model
    names = [transformer.mlp_post(layer) for layer in range(transformer.shape(model).n_layers)]
    size = min(len(rows), conditions.picture.batch_size)
    kept = [record(model, conditions.tokens[rows[start : start + size]], names) for start in range(0, len(rows), size)]
    at = conditions.picture.image_pos
    largest = torch.stack(
        [wide(own[0] - other[0]).amax(0).cpu() for own, other in (_rows_at(kept, name, at) for name in names)]
    )
    best = largest.flatten().argsort(descending=True, stable=True)[:top_k]
    d_mlp = largest.shape[1]
    return pd.DataFrame(
        {
            "layer": (best // d_mlp).numpy(),
            "neuron": (best % d_mlp).numpy(),
            "difference": largest.flatten()[best].numpy(),
        }
    )


def _rows_at(
    kept: Sequence[Mapping[str, Tensor]], name: str, at: Int[Tensor, " image_pos"]
) -> list[Float[Tensor, "1 image_pos d_mlp"]]:
    """Each row's activations at some positions, whatever batches they came in."""
    return [row[None, at.to(row.device)] for batch in kept for row in batch[name]]
