"""The edit that most hooks make: replace some units of an activation at some positions."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.arguments.positions import PositionSet


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which part of which activation: some units (None: all) along an axis, at some positions."""

    name: str
    """The hook point's name."""
    positions: PositionSet
    passes: transformer.Passes = field(default_factory=transformer.Passes)
    """The model's current pass, to tell generated tokens from prompts; the default takes every pass for a whole row."""
    units: Tensor | None = None
    axis: int = -1

    def of(self, activation: Tensor) -> Tensor:
        """The units of this place in an activation or in a mean of the same layout."""
        if self.units is None:
            return activation
        return activation.index_select(self.axis, self.units.to(activation.device))

    def mask(self, activation: Tensor) -> Bool[Tensor, "rows pos"]:
        """Which positions of this pass are chosen, the same for all rows or row by row."""
        start, n_prompt = self._standing()
        batch, n_pos = activation.shape[:2]
        return self.positions.mask_within(batch, n_pos, start=start, n_prompt=n_prompt, device=activation.device)

    def within(self, activation: Tensor) -> tuple[Int[Tensor, " pos"], Int[Tensor, " pos"]]:
        """The chosen positions of this pass in the order given, and the rank of each among those given."""
        start, n_prompt = self._standing()
        return self.positions.within(activation.shape[1], start=start, n_prompt=n_prompt, device=activation.device)

    def _standing(self) -> tuple[int, int | None]:
        """Where this pass begins, and the length of the prompt if it is not this pass."""
        start = self.passes.start
        if start and self.positions.from_the_end and self.passes.n_prompt is None:
            raise ValueError(
                f"{self.positions.source}: this pass continues a row of {start} positions that ran before the hooks "
                f"were made, so positions cannot be counted from the end of the prompt; count them from 0"
            )
        return start, self.passes.n_prompt if start else None


def edit_at(activation: Tensor, *, place: Place, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A copy of an activation `[batch, pos, ...]` in which the units of a place were changed at its positions.

    Args: change: from the place's units (at all positions) to their new values of the same shape.
    Returns: a new tensor of the same dtype, or the one given if this pass is not to be edited.
    """
    chosen = None if place.positions.everywhere else place.mask(activation)
    if chosen is not None and not bool(chosen.any()):
        return activation
    part = place.of(activation)
    new = change(part).to(activation.dtype)
    if chosen is not None:
        new = torch.where(chosen.reshape(*chosen.shape, *[1] * (part.ndim - 2)), new, part)
    if place.units is None:
        return new
    return activation.index_copy(place.axis, place.units.to(activation.device), new)
