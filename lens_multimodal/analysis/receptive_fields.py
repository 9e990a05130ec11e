"""Receptive fields: where in the picture a neuron is active (paper section 3.2).

Activations at the image positions → patch grid → bilinear upsampling to the original picture → threshold at the
0.95 quantile → mask → intersection over union with an object's segmentation.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.positions import Positions, positions_in
from lens_multimodal.arguments.units import Neurons, read_neuron_pairs, read_neurons
from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.precision import wide

PAPER_QUANTILE = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class ReceptiveField(ShownInNotebooks):
    """A neuron's activation over one picture."""

    heat: Float[Tensor, "height width"]
    """Upsampled activations; NaN where preprocessing cropped the picture."""
    mask: Bool[Tensor, "height width"]
    """Where `heat` lies above the threshold."""
    threshold: float


@public
def receptive_field(
    activations: Float[Tensor, "grid_h grid_w"] | Float[Tensor, " image_pos"],
    geometry: ImageGeometry | ImageLayout,
    *,
    quantile: float | int = PAPER_QUANTILE,
) -> ReceptiveField:
    """Upsample activations of the image patches to the picture and keep the most active pixels.

    Args:
        activations: of one neuron, or a mean over several as in the paper's figure.
        geometry: of the patch grid; or, for one activation per position, the image's layout. Where several grids show
            a pixel, as in models that read a picture in tiles, their mean counts.
        quantile: of the pixels that the encoder saw; 0.95 keeps the most active 5 %. A constant activation has no
            receptive field: its mask is empty.
    Raises: ValueError for another grid, a quantile outside 0 to 1, or activations that are not finite.
    """
    if not 0 <= quantile <= 1:
        raise ArgumentValueError(f"expected a number from 0 to 1, got {quantile}", "quantile")
    if not bool(activations.isfinite().all()):
        raise ArgumentValueError("the activations hold infinities or NaN", "activations")
    heat = geometry.to_picture(activations)  # type: ignore[arg-type]
    threshold = float(np.nanquantile(heat.cpu().numpy(), quantile))
    return ReceptiveField(heat=heat, mask=heat > threshold, threshold=threshold)


@public
def intersection_over_union(mask: Bool[Tensor, "height width"], seg_mask: Bool[Tensor, "height width"]) -> float:
    """Shared pixels over all pixels of two masks: 1 if equal, 0 if apart.

    Raises: ValueError for different sizes or an empty segmentation.
    """
    if mask.shape != seg_mask.shape:
        raise ValueError(
            f"the masks have different sizes, {list(mask.shape)} and {list(seg_mask.shape)}; both must be those of "
            f"the original picture"
        )
    seg_mask = seg_mask.to(mask.device)
    if not bool(seg_mask.any()):
        raise ArgumentValueError("the segmentation mask is empty, so no overlap with it is defined", "seg_mask")
    return float((mask & seg_mask).sum() / (mask | seg_mask).sum())


@public
def neuron_activations(
    model: nn.Module,
    tokens: Int[Tensor, "batch prompt_pos"],
    neurons: Neurons,
    positions: Positions = None,
    *,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "batch neuron pos"]:
    """Activations of some neurons at some positions, both in the order given.

    Args: neurons: in any form that `hooks.ablate` takes.
    Returns: for image positions of a `[grid_h, grid_w]` grid, reshape the last axis to it.
    Raises: ValueError, TypeError for neurons or positions that do not exist.
    """
    pairs = read_neuron_pairs(model, neurons)
    by_layer = read_neurons(model, pairs)
    at = positions_in(positions, tokens.shape[1])
    picked: dict[int, Tensor] = {}

    def keep(layer: int) -> transformer.HookFunction:
        def pick(activation: Tensor, hook: Any) -> None:
            device = activation.device
            rows = activation[:, at.to(device)][:, :, by_layer[layer].to(device)]
            picked[layer] = wide(rows).transpose(1, 2).to(tokens.device)

        return pick

    hooks = [(transformer.mlp_post(layer), keep(layer)) for layer in by_layer]
    with torch.no_grad():
        transformer.logits_of(model, tokens, attention_mask=attention_mask, first=tokens.shape[1] - 1, hooks=hooks)
    found = torch.cat([picked[layer] for layer in by_layer], dim=1)
    found_order = sorted(range(len(pairs)), key=lambda index: pairs[index][0])
    return found[:, torch.tensor(found_order).argsort()]
