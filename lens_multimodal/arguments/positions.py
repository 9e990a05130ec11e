"""At which positions an intervention applies, and what that means while tokens are being generated.

KV-cached generation runs the prompt once and then every new token alone, so a hook sees a position axis of
length 1 and cannot tell where it is. The rule is decided by how positions were given:

- `None`: everywhere, generated tokens included;
- `slice(start, None)`: from `start` on, generated tokens included;
- anything with an end (an integer, a list, a range, `slice(start, stop)`, a mask): only there in the prompt, and
  a pass over a single position is left alone. A prompt of one token can therefore only be edited with an open end.

Positions count from 0 at the left of the (padded) row; negative ones are refused, since "the last" moves
while generating.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

Positions: TypeAlias = int | Sequence[Any] | range | slice | Tensor | None
"""What a user gives; a boolean tensor `[batch, pos]` chooses per row, for left-padded batches."""


@dataclass(frozen=True, kw_only=True)
class PositionSet:
    """Checked positions: exactly one of an open end, a list, or a mask by row."""

    start: int | None = None
    listed: tuple[int, ...] | None = None
    rows: Bool[Tensor, "batch pos"] | None = None

    @property
    def open_ended(self) -> bool:
        """Whether generated tokens are included."""
        return self.start is not None

    def applies_to(self, n_pos: int) -> bool:
        """Whether a pass over `n_pos` positions is edited at all: not if it is a single generated token."""
        return self.open_ended or n_pos > 1

    def mask(self, n_pos: int, *, device: torch.device) -> Bool[Tensor, "rows pos"]:
        """The chosen ones among `n_pos` positions counted from the start; one row if all rows agree.

        Raises: ValueError if a position lies beyond `n_pos`.
        """
        if self.rows is not None:
            return self._rows_of_length(n_pos, device)
        chosen = torch.zeros(1, n_pos, dtype=torch.bool, device=device)
        if self.listed is not None:
            chosen[:, self.index(n_pos, device=device)] = True
        else:
            chosen[:, self.start :] = True
        return chosen

    def index(self, n_pos: int, *, device: torch.device) -> Tensor:
        """The chosen positions in the order given, for edits that bring one value per position.

        Raises: ValueError if a position lies beyond `n_pos`, or if the positions differ by row.
        """
        if self.rows is not None:
            raise ValueError("positions given as a mask by row cannot be paired with one value per position; list them")
        if self.listed is None:
            return torch.arange(self.start or 0, n_pos, device=device)
        if max(self.listed) >= n_pos:
            raise ValueError(
                f"position {max(self.listed)} is outside this pass over {n_pos} positions (0 to {n_pos - 1})"
            )
        return torch.tensor(self.listed, dtype=torch.long, device=device)

    def _rows_of_length(self, n_pos: int, device: torch.device) -> Bool[Tensor, "rows pos"]:
        assert self.rows is not None
        rows = self.rows.to(device)
        missing = n_pos - rows.shape[1]
        if missing < 0:
            raise ValueError(f"the mask of positions is {rows.shape[1]} long, this pass has only {n_pos} positions")
        return torch.nn.functional.pad(rows, (0, missing))


def as_positions(positions: Positions) -> PositionSet:
    """Check positions before any forward pass.

    Raises:
        ValueError: none at all, negative, repeated, an open slice with a step, or a mask that is not `[batch, pos]`.
        TypeError: something that is not a position.
    """
    if positions is None:
        return PositionSet(start=0)
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        return _masked(positions)
    if isinstance(positions, slice):
        if positions.stop is None:
            return _open(positions)
        positions = range(positions.start or 0, positions.stop, positions.step or 1)
    if isinstance(positions, int):
        positions = [positions]
    return _listed(positions.tolist() if isinstance(positions, Tensor) else positions)


def edit_at(
    activation: Tensor,
    *,
    positions: PositionSet,
    change: Callable[[Tensor], Tensor],
    units: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """A copy of an activation `[batch, pos, ...]` in which some units at some positions were changed.

    Args:
        change: from the chosen units (at all positions) to their new values of the same shape.
        units: indices along `axis`; None for all of them.
    Returns: a new tensor of the same dtype, or the one given when this pass is not to be edited.
    """
    n_pos = activation.shape[1]
    if not positions.applies_to(n_pos):
        return activation
    index = None if units is None else units.to(activation.device)
    part = activation if index is None else activation.index_select(axis, index)
    new = change(part).to(activation.dtype)
    if positions.start != 0:
        chosen = positions.mask(n_pos, device=activation.device) if n_pos > 1 else None
        if chosen is not None:
            new = torch.where(
                _checked_rows(chosen, activation).reshape(*chosen.shape, *[1] * (part.ndim - 2)), new, part
            )
    return new if index is None else activation.index_copy(axis, index, new)


def _checked_rows(chosen: Tensor, activation: Tensor) -> Tensor:
    if chosen.shape[0] not in (1, activation.shape[0]):
        raise ValueError(
            f"the mask of positions has {chosen.shape[0]} rows, this pass has a batch of {activation.shape[0]}"
        )
    return chosen


def _open(positions: slice) -> PositionSet:
    if positions.step not in (None, 1):
        raise ValueError(f"an open slice of positions cannot have a step, got {positions}; give a range with an end")
    start = positions.start or 0
    if start < 0:
        raise ValueError(_negative(start))
    return PositionSet(start=start)


def _masked(positions: Tensor) -> PositionSet:
    if positions.ndim == 1:
        positions = positions[None]
    if positions.ndim != 2:
        raise ValueError(f"a mask of positions has shape [batch, pos] or [pos], got {list(positions.shape)}")
    if not positions.any():
        raise ValueError("the mask of positions chooses none")
    return PositionSet(rows=positions.clone())


def _listed(positions: Any) -> PositionSet:
    if isinstance(positions, str) or not hasattr(positions, "__iter__"):
        raise TypeError(f"expected positions as integers, a range, a slice or a boolean mask, got {positions!r}")
    listed = []
    for position in positions:
        if isinstance(position, bool) or not hasattr(position, "__index__"):
            raise TypeError(f"expected integer positions, got {position!r} ({type(position).__name__})")
        listed.append(int(position))
    if not listed:
        raise ValueError("no positions given; use None for all of them")
    if min(listed) < 0:
        raise ValueError(_negative(min(listed)))
    if len(set(listed)) < len(listed):
        twice = sorted({position for position in listed if listed.count(position) > 1})
        raise ValueError(f"positions given more than once: {', '.join(map(str, twice[:5]))}")
    return PositionSet(listed=tuple(listed))


def _negative(position: int) -> str:
    return (
        f"position {position} is negative: count from 0 at the left of the (padded) prompt, since the last position "
        f"moves while tokens are generated"
    )
