"""Positions of a prompt, and what they mean while tokens are generated.

Positions count from 0 at the left of the (padded) row; negative ones count from the end of the prompt. The same forms
work everywhere:

- `None`: all positions;
- an integer (also NumPy's), or several in a list, a range, or a one-axis tensor or array;
- a slice;
- a boolean mask, `[pos]` or `[batch, pos]`, such as `prompt.image_mask`. Positions beyond the mask are not chosen;
- a name of `NAMED_POSITIONS`, where the function is given an `ImagePrompt`. Elsewhere, write `prompt.at("image")`.

Hooks also see generated tokens, which continue the row. With the cache, each comes in a pass of its own; without it,
together with everything before it. The same positions are edited either way, and none before it is generated:

- `None` and a slice of positions counted from 0 include generated tokens as far as they reach; so does an open slice
  with a negative start, which begins in the prompt;
- an integer, a list, a mask, or a slice that ends at a negative position refers to the prompt alone, and a listed
  position outside it is an error.

Negative positions count from the end of the prompt. Without the cache every pass is a prompt of its own, so they count
from the end of the row so far.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_multimodal.arguments.boundary import ArgumentTypeError, ArgumentValueError, called_as, read_integer, shown

CPU = torch.device("cpu")

NAMED_POSITIONS = ("image", "text", "last")
"""image: where the picture is read; text: at its words; last: where the next token is predicted, generated tokens
included."""


@dataclass(frozen=True, kw_only=True)
class PositionSet:
    """Checked positions, independent of a prompt's length: exactly one of a list, a slice, or a mask by row."""

    source: str = "positions"
    """The function and argument they came from, for errors that show only once the prompt's length is known."""
    listed: tuple[int, ...] | None = None
    """In the order given; negative ones count from the end of the prompt."""
    span: slice | None = None
    """An open slice, or one whose length depends on that of the prompt."""
    rows: Bool[Tensor, "batch pos"] | None = None
    reaches_on: bool = False
    """Listed by a slice, which may reach beyond the prompt."""

    @property
    def open_ended(self) -> bool:
        """Whether generated tokens are included."""
        return self.span is not None and self.span.stop is None

    @property
    def start(self) -> int:
        """Where a slice begins."""
        assert self.span is not None
        return self.span.start

    @property
    def everywhere(self) -> bool:
        """Whether all positions are chosen, generated tokens included."""
        return self.open_ended and self.start == 0

    @property
    def from_the_end(self) -> bool:
        """Whether the prompt's length decides which positions are meant."""
        if self.span is not None:
            return self.span.start < 0 or (self.span.stop or 0) < 0
        return self.listed is not None and min(self.listed) < 0

    @property
    def count(self) -> int | None:
        """How many positions; None if the prompt's length or the row decides it."""
        if self.rows is not None:
            return int(self.rows[0].sum()) if self._rows_agree else None
        return None if self.listed is None else len(self.listed)

    @property
    def _rows_agree(self) -> bool:
        return self.rows is not None and bool((self.rows == self.rows[0]).all())

    def within(
        self, n_pos: int, *, start: int = 0, n_prompt: int | None = None, device: torch.device = CPU
    ) -> tuple[Int[Tensor, " pos"], Int[Tensor, " pos"]]:
        """The chosen positions of a pass, counted from its first, and the rank of each.

        Args:
            n_pos: how many positions the pass computes.
            start: how many come before them, from the cache.
            n_prompt: length of the prompt from whose end negative positions count; None for `start + n_pos`.
        Returns: the index of each along the pass, and which of the positions given it is.
        Raises: ValueError as `index`, except for a slice that reaches beyond the row.
        """
        stop = start + n_pos
        if start == 0 and not self.reaches_on:
            here = self.index(n_pos, device=device, n_prompt=n_prompt)
            return here, torch.arange(len(here), device=device)
        if self.rows is not None:
            counted = self._same_in_all_rows(stop, device)
        else:
            counted = torch.tensor(self._counted(stop, n_prompt), dtype=torch.long, device=device)
        rank = ((counted >= start) & (counted < stop)).nonzero().flatten()
        return counted[rank] - start, rank

    def mask_within(
        self, batch: int, n_pos: int, *, start: int = 0, n_prompt: int | None = None, device: torch.device = CPU
    ) -> Bool[Tensor, "rows pos"]:
        """As `within`, but a mask of one row or `batch` rows. Raises: ValueError for another number of rows."""
        if self.rows is not None:
            return self.mask_of_batch(batch, start + n_pos, device=device)[:, start:]
        chosen = torch.zeros(1, n_pos, dtype=torch.bool, device=device)
        chosen[:, self.within(n_pos, start=start, n_prompt=n_prompt, device=device)[0]] = True
        return chosen

    def mask(self, n_pos: int, *, device: torch.device = CPU, n_prompt: int | None = None) -> Bool[Tensor, "rows pos"]:
        """A mask of the chosen positions among the first `n_pos`; one row if all rows agree.

        Args: n_prompt: length of the prompt from whose end negative positions count; None for `n_pos`.
        Raises: ValueError if a position lies outside.
        """
        if self.rows is not None:
            return self._rows_of_length(n_pos, device)
        chosen = torch.zeros(1, n_pos, dtype=torch.bool, device=device)
        chosen[:, self.index(n_pos, device=device, n_prompt=n_prompt)] = True
        return chosen

    def mask_of_batch(
        self, batch: int, n_pos: int, *, device: torch.device = CPU, n_prompt: int | None = None
    ) -> Bool[Tensor, "rows pos"]:
        """As `mask`, with one row or `batch` rows. Raises: ValueError also for another number of rows."""
        chosen = self.mask(n_pos, device=device, n_prompt=n_prompt)
        if len(chosen) not in (1, batch):
            raise ValueError(f"{self.source}: the mask has {len(chosen)} rows, this pass has a batch of {batch}")
        return chosen

    def index(self, n_pos: int, *, device: torch.device = CPU, n_prompt: int | None = None) -> Int[Tensor, " pos"]:
        """The chosen positions in the order given, counted from 0; arguments as in `mask`.

        Raises: ValueError if a position lies outside, is named twice, or if the positions differ from row to row.
        """
        if self.rows is not None:
            return self._same_in_all_rows(n_pos, device)
        counted = self._counted(n_pos, n_prompt)
        n_prompt = n_pos if n_prompt is None else n_prompt
        if not counted and not self.open_ended:
            raise ValueError(f"{self.source}: {self.span} chooses no position of a prompt of {n_prompt}")
        if max(counted, default=-1) >= n_pos:
            raise ValueError(
                f"{self.source}: position {max(counted)} is outside this prompt of {n_pos} positions "
                f"({-n_prompt} to {n_pos - 1})"
            )
        if len(set(counted)) < len(counted):
            raise ValueError(
                f"{self.source}: positions {_repeated(counted)} of this prompt of {n_prompt} are given more than "
                f"once, counted from the start and from the end"
            )
        return torch.tensor(counted, dtype=torch.long, device=device)

    def _counted(self, stop: int, n_prompt: int | None) -> list[int]:
        """The positions in the order given, counted from 0; of an open slice, those below `stop`."""
        n_prompt = stop if n_prompt is None else n_prompt
        if self.span is None:
            return [self._from_start(position, n_prompt) for position in self.listed or ()]
        first = self._from_start(self.span.start, n_prompt)
        if self.open_ended:
            return list(range(first, stop))
        return list(range(first, self._from_start(self.span.stop, n_prompt), self.span.step))

    def _from_start(self, position: int, n_prompt: int) -> int:
        if position < -n_prompt:
            raise ValueError(
                f"{self.source}: position {position} is outside this prompt of {n_prompt} positions "
                f"({-n_prompt} to {n_prompt - 1})"
            )
        return position + n_prompt if position < 0 else position

    def _same_in_all_rows(self, n_pos: int, device: torch.device) -> Int[Tensor, " pos"]:
        rows = self._rows_of_length(n_pos, device)
        if not self._rows_agree:
            raise ValueError(
                f"{self.source}: the rows of this mask {list(rows.shape)} choose different positions, but here every "
                f"row has the same ones; give positions that all rows share, or one row at a time"
            )
        return rows[0].nonzero().flatten()

    def _rows_of_length(self, n_pos: int, device: torch.device) -> Bool[Tensor, "rows pos"]:
        assert self.rows is not None
        missing = n_pos - self.rows.shape[1]
        if missing < 0:
            raise ValueError(
                f"{self.source}: the mask has {self.rows.shape[1]} positions, this prompt has only {n_pos} positions"
            )
        return torch.nn.functional.pad(self.rows.to(device), (0, missing))


Positions: TypeAlias = int | np.integer | str | Sequence[Any] | slice | Tensor | np.ndarray | PositionSet | None
"""Any form of the module's docstring, or what `read_positions` returned."""


def read_positions(
    positions: Any, *, name: str = "positions", named: Mapping[str, Callable[[], Any]] | None = None
) -> PositionSet:
    """Check positions before any prompt is known.

    Args: named: what each name of `NAMED_POSITIONS` means in the given prompt; None without an `ImagePrompt`.
    Raises:
        ArgumentValueError: no position, one given twice, an open slice with a step, a mask of another shape, or an
            unknown name.
        ArgumentTypeError: something that is not a position.
    """
    if isinstance(positions, PositionSet):
        return positions
    source = called_as(name)
    if isinstance(positions, str):
        positions = _positions_named(positions, name, named)
    if positions is None:
        return PositionSet(source=source, span=slice(0, None))
    if isinstance(positions, slice):
        return _read_slice(positions, name)
    if isinstance(positions, Tensor | np.ndarray) and positions.dtype in (torch.bool, np.bool_):
        return PositionSet(source=source, rows=_checked_mask(torch.as_tensor(positions), name))
    return PositionSet(source=source, listed=_checked_list(positions, name))


def positions_in(positions: Any, n_pos: int, *, name: str = "positions") -> Int[Tensor, " pos"]:
    """Positions of a prompt whose length is known, counted from 0, in the order given.

    Raises: ArgumentValueError as `read_positions`, for positions outside the prompt and for a mask whose rows differ;
        ArgumentTypeError as `read_positions`.
    """
    chosen = read_positions(positions, name=name)
    try:
        index = chosen.index(n_pos)
    except ValueError as error:
        raise ArgumentValueError(str(error).removeprefix(f"{chosen.source}: "), name) from None
    if not len(index):
        raise ArgumentValueError(f"{positions} chooses no position of this prompt of {n_pos}", name)
    return index


def _positions_named(given: str, name: str, named: Mapping[str, Callable[[], Any]] | None) -> Any:
    if given not in NAMED_POSITIONS:
        raise ArgumentValueError(
            f"expected {', '.join(map(repr, NAMED_POSITIONS))}, or positions by number, got {given!r}", name
        )
    if named is None:
        raise ArgumentValueError(
            f"token ids do not say which positions are {given!r}: give prompt.at({given!r}) of the ImagePrompt", name
        )
    return named[given]()


def _read_slice(positions: slice, name: str) -> PositionSet:
    start, stop, step = (
        default if part is None else read_integer(part, name)
        for part, default in ((positions.start, 0), (positions.stop, None), (positions.step, 1))
    )
    assert start is not None
    if step == 0 or (stop is None and step != 1):
        raise ArgumentValueError(f"expected an open slice with step 1, or a slice with an end; got {positions}", name)
    if stop is not None and (start < 0) == (stop < 0):
        listed = _checked_list(range(start, stop, step or 1), name)
        return PositionSet(source=called_as(name), listed=listed, reaches_on=start >= 0)
    return PositionSet(source=called_as(name), span=slice(start, stop, step))


def _checked_mask(mask: Tensor, name: str) -> Bool[Tensor, "batch pos"]:
    if mask.ndim not in (1, 2):
        raise ArgumentValueError(f"expected a mask [pos] or [batch, pos], got shape {list(mask.shape)}", name)
    if not bool(mask.any()):
        raise ArgumentValueError(f"the mask of shape {list(mask.shape)} chooses no position", name)
    return torch.atleast_2d(mask).clone()


def _checked_list(positions: Any, name: str) -> tuple[int, ...]:
    values = positions.tolist() if isinstance(positions, Tensor | np.ndarray) else positions
    if hasattr(values, "__index__"):
        values = [values]
    if not isinstance(values, Iterable):
        raise ArgumentTypeError(
            f"expected integers, a range, a slice, a boolean mask or None, got {shown(positions)}", name
        )
    listed = tuple(read_integer(position, name) for position in values)
    if not listed:
        raise ArgumentValueError("no position given; expected at least one, or None for all", name)
    if len(set(listed)) < len(listed):
        raise ArgumentValueError(f"positions {_repeated(listed)} are given more than once", name)
    return listed


def _repeated(values: Sequence[int]) -> list[int]:
    return sorted({value for value in values if values.count(value) > 1})[:5]
