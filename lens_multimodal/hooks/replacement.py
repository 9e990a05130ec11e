"""What an activation is replaced with: zero, its mean, or its value in another run.

Ablation, activation patching and path patching differ only in which activations they replace and with what. A
replacement answers the second question.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from transformer_lens import ActivationCache

from lens_multimodal.arguments.positions import PositionSet
from lens_multimodal.hooks.editing import Place

Activations: TypeAlias = Mapping[str, Tensor] | ActivationCache
"""Activations by hook name: from `record`, or a TransformerLens cache."""


@runtime_checkable
class Replacement(Protocol):
    """`Zero`, `Mean` or `Resample`: where the new values come from."""

    def check(self, widths: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError unless there is a value of the right width for each hook name."""

    def values(self, part: Tensor, place: Place) -> Tensor:
        """New values of the shape of `part`, the units of `place` at all positions of a pass."""


@dataclass(frozen=True)
class Zero:
    """Zero ablation: the paper's (section 3.3)."""

    def check(self, widths: Mapping[str, tuple[int, ...]]) -> None:  # noqa: ARG002
        return

    def values(self, part: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        return part.new_zeros(()).expand_as(part)


@dataclass(frozen=True)
class Mean:
    """Mean ablation: the activation's mean over prompts and positions.

    Args:
        means: by hook name, without batch and position axis; from `mean_activations`.
    """

    means: Mapping[str, Tensor] = field(repr=False)

    def check(self, widths: Mapping[str, tuple[int, ...]]) -> None:
        for name, width in widths.items():
            _check_shape(_find(self.means, name, "means"), name, width, "means")

    def values(self, part: Tensor, place: Place) -> Tensor:
        return place.of(self.means[place.name]).to(part).expand_as(part)


@dataclass(frozen=True)
class Resample:
    """Resample ablation and activation patching: the value that the activation has in another run.

    Args:
        run: by hook name, `[batch, pos, ...]`, or `[1, pos, ...]` to use one prompt for every row.
        source_positions: the run's positions whose values go to the edited positions, one by one in order;
            None for the same positions, where negative ones count from the run's own end.
    """

    run: Activations = field(repr=False)
    source_positions: PositionSet | None = None

    def check(self, widths: Mapping[str, tuple[int, ...]]) -> None:
        for name, width in widths.items():
            _check_shape(_find(self.run, name, "run"), name, ("batch", "pos", *width), "run")

    def values(self, part: Tensor, place: Place) -> Tensor:
        source = place.of(self.run[place.name]).to(part)
        batch, n_pos, n_source, start = *part.shape[:2], source.shape[1], place.passes.start
        if source.shape[0] not in (1, batch):
            raise ValueError(
                f"{place.name}: the run to take values from has a batch of {source.shape[0]}, this pass one of "
                f"{batch}; record the same number of prompts, or a single one"
            )
        source = source.expand(batch, *source.shape[1:])
        if self.source_positions is None and n_source == n_pos and not start:
            return source
        to, rank = place.within(part)
        take = to + start
        if start and (place.positions.from_the_end or int(take.max()) >= n_source):
            raise ValueError(
                f"{place.name}: the run to take values from has no generated tokens; limit the intervention to "
                f"positions of the prompt (a list, or a slice with an end) before generating"
            )
        if self.source_positions is not None or place.positions.from_the_end:
            take = (self.source_positions or place.positions).index(n_source, device=part.device)
            take = take[rank] if len(take) == place.positions.count else take
        if len(take) != len(to):
            raise ValueError(f"{len(take)} source positions cannot be copied to {len(to)} positions one by one")
        if int(take.max()) >= n_source:
            raise ValueError(
                f"{place.name}: the run to take values from has {n_source} positions, this pass {n_pos}; give "
                f"positions that both have, or source_positions"
            )
        return part.index_copy(1, to, source.index_select(1, take))


def shuffled(run: Activations, names: Iterable[str], generator: torch.Generator) -> dict[str, Tensor]:
    """The same run with its rows permuted so that none stays in place: the source of resample ablation.

    The permutation is a random cycle, the same at all hook points.

    Raises: ValueError for a run of one prompt.
    """
    kept = {name: _find(run, name, "run") for name in names}
    n_rows = {len(value) for value in kept.values()}
    if len(n_rows) != 1 or n_rows == {1}:
        raise ValueError(f"shuffling needs two or more prompts, the same at every hook point; got {sorted(n_rows)}")
    order = torch.randperm(n_rows.pop(), generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return {name: value[partner.to(value.device)] for name, value in kept.items()}


def _find(activations: Any, name: str, what: str) -> Tensor:
    try:
        return activations[name]
    except KeyError:
        some = ", ".join(list(activations.keys())[:3])
        raise ValueError(
            f"the {what} given has no {name!r}; it has {some or 'nothing'}; record that hook point too"
        ) from None


def _check_shape(value: Tensor, name: str, expected: tuple[str | int, ...], what: str) -> None:
    named = [size for size in expected if isinstance(size, str)]
    if value.ndim != len(expected) or tuple(value.shape[len(named) :]) != expected[len(named) :]:
        raise ValueError(
            f"{name}: the {what} given has shape {list(value.shape)}, this model needs "
            f"[{', '.join(map(str, expected))}]; was it made with another model?"
        )
