"""The edit that most hooks make: replace some units of an activation at some positions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lens_multimodal.arguments.positions import PositionSet


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which part of which activation: some units (None: all) along an axis, at some positions."""

    name: str
    """The hook point's name."""
    positions: PositionSet
    units: Tensor | None = None
    axis: int = -1

    def of(self, activation: Tensor) -> Tensor:
        """The units of this place in an activation or in a mean of the same layout."""
        if self.units is None:
            return activation
        return activation.index_select(self.axis, self.units.to(activation.device))


def edit_at(activation: Tensor, *, place: Place, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A copy of an activation `[batch, pos, ...]` in which the units of a place were changed at its positions.

    Args: change: from the place's units (at all positions) to their new values of the same shape.
    Returns: a new tensor of the same dtype, or the one given if this pass is not to be edited.
    """
    n_pos = activation.shape[1]
    if not place.positions.applies_to(n_pos):
        return activation
    part = place.of(activation)
    new = change(part).to(activation.dtype)
    if n_pos > 1 and not place.positions.everywhere:
        chosen = place.positions.mask_of_batch(len(activation), n_pos, device=activation.device)
        new = torch.where(chosen.reshape(*chosen.shape, *[1] * (part.ndim - 2)), new, part)
    if place.units is None:
        return new
    return activation.index_copy(place.axis, place.units.to(activation.device), new)
