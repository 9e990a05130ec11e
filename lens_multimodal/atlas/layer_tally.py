"""What is kept of one layer's neurons while pictures stream by: counts, sums and the best pictures, no activations.

All counts are integers and ties have an order, so tallies of different pictures can be merged in any order and give the
same numbers. Sums of activations are not associative in floating point; they are kept by chunk and added in one order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SHARE = 64
"""Covered shares of a patch are counted in parts of this many, so that sums are exact."""

NO_PICTURE = torch.iinfo(torch.int64).max
"""Fills a neuron's list of best pictures where it has fewer."""

LONGEST = 2**20
"""More than the positions of any image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchFacts:
    """What a tally needs to know about a batch of pictures, the same for every layer."""

    place: Int[Tensor, " picture"]
    """Of each picture in the run."""
    index: Int[Tensor, "picture patch"]
    """The image position that shows each patch, ascending."""
    is_patch: Bool[Tensor, "picture patch"]
    """False where a picture has fewer patches than another one of the batch; its activations are minus infinity
    there."""
    columns: Int[Tensor, " column"]
    """The categories that appear in the batch, as columns of the tallies."""
    share: Float[Tensor, "picture patch column"]
    """Parts of `SHARE` of each patch that these categories cover."""
    shifted_columns: Int[Tensor, " shifted_column"]
    shifted: Float[Tensor, "picture patch shifted_column"]
    """The same of other pictures' segmentations, the permutation control."""

    def to(self, device: torch.device) -> "BatchFacts":
        return BatchFacts(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(kw_only=True, eq=False)
class LayerTally:
    """Counts over all pictures so far."""

    inside: Int[Tensor, "level neuron category"]
    """Parts of patches that belong to a category, over the patches where the neuron is above a level."""
    above: Int[Tensor, "level neuron"]
    """Patches where the neuron is above a level."""
    positive: Int[Tensor, " neuron"]
    """Patches with an activation above zero."""
    inside_half: Int[Tensor, "neuron category"]
    """`inside` where the neuron is on, over pictures at even places."""
    above_half: Int[Tensor, " neuron"]
    shifted: Int[Tensor, "neuron category"]
    """`inside` where the neuron is on, with the segmentations of other pictures."""
    pictures_on: Int[Tensor, "half neuron category"]
    """Pictures at even and at odd places in which the neuron is on within the category."""
    top_value: Float[Tensor, "neuron rank"]
    """The largest activation of each of the best pictures, best first."""
    top_patch: Int[Tensor, "neuron rank"]
    """The picture's place times `LONGEST`, plus the image position."""

    @classmethod
    def empty(
        cls, *, n_neurons: int, n_categories: int, n_levels: int, n_top: int, device: torch.device
    ) -> "LayerTally":
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return cls(
            inside=zeros(n_levels, n_neurons, n_categories),
            above=zeros(n_levels, n_neurons),
            positive=zeros(n_neurons),
            inside_half=zeros(n_neurons, n_categories),
            above_half=zeros(n_neurons),
            shifted=zeros(n_neurons, n_categories),
            pictures_on=zeros(2, n_neurons, n_categories),
            top_value=torch.full((n_neurons, n_top), -torch.inf, device=device),
            top_patch=torch.full((n_neurons, n_top), NO_PICTURE, dtype=torch.int64, device=device),
        )

    def add(
        self,
        activation: Float[Tensor, "picture patch neuron"],
        facts: BatchFacts,
        thresholds: Float[Tensor, "level neuron"],
        on: int,
    ) -> None:
        """Count one batch. Args: on: the level above which a neuron is on."""
        even = facts.place % 2 == 0
        self.positive += (activation > 0).sum(dim=(0, 1))
        covered = facts.share.any(dim=-1)
        share, on_objects = facts.share[covered], activation[covered]
        for level, threshold in enumerate(thresholds):
            is_on = activation > threshold
            self.above[level] += is_on.sum(dim=(0, 1))
            self.inside[level].index_add_(1, facts.columns, _whole((on_objects > threshold).float().T @ share))
            if level == on:
                self._count_on(is_on, even, facts)
        value = activation.amax(dim=1)
        first = torch.where(activation == value[:, None], facts.index[..., None], LONGEST).amin(dim=1)
        self._keep_best(value.T, (facts.place[:, None] * LONGEST + first).T)

    def _count_on(self, is_on: Bool[Tensor, "picture patch neuron"], even: Tensor, facts: BatchFacts) -> None:
        """The halves, the pictures and the permutation control."""
        covered = facts.share.any(dim=-1)
        of_even = covered & even[:, None]
        self.inside_half.index_add_(1, facts.columns, _whole(is_on[of_even].float().T @ facts.share[of_even]))
        self.above_half += is_on[even].sum(dim=(0, 1))
        mostly = is_on.transpose(1, 2).float() @ (facts.share * 2 >= SHARE).float() > 0
        for half, chosen in enumerate((even, ~even)):
            self.pictures_on[half].index_add_(1, facts.columns, mostly[chosen].sum(0))
        shifted = facts.shifted.any(dim=-1)
        inside = is_on[shifted].float().T @ facts.shifted[shifted]
        self.shifted.index_add_(1, facts.shifted_columns, _whole(inside))

    def merge(self, other: "LayerTally") -> None:
        """Count another tally's pictures too, which must be different ones."""
        for name in COUNTS:
            getattr(self, name).add_(getattr(other, name))
        self._keep_best(other.top_value, other.top_patch)

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _keep_best(self, value: Tensor, patch: Tensor) -> None:
        values = torch.cat([self.top_value, value.to(self.top_value.dtype)], dim=1)
        patches = torch.cat([self.top_patch, patch], dim=1)
        by_patch = patches.argsort(dim=1, stable=True)
        by_value = values.gather(1, by_patch).argsort(dim=1, descending=True, stable=True)
        best = by_patch.gather(1, by_value)[:, : self.top_value.shape[1]]
        self.top_value, self.top_patch = values.gather(1, best), patches.gather(1, best)


COUNTS = ("inside", "above", "positive", "inside_half", "above_half", "shifted", "pictures_on")


def moments(
    activation: Float[Tensor, "picture patch neuron"], is_patch: Bool[Tensor, "picture patch"]
) -> Float[Tensor, "2 neuron"]:
    """Sums of activations and of their squares, in float64."""
    wide = activation.double().masked_fill_(~is_patch[..., None], 0)
    return torch.stack([wide.sum(dim=(0, 1)), wide.square().sum(dim=(0, 1))])


def thresholds_of(values: Float[Tensor, "patch neuron"], levels: Sequence[float]) -> Float[Tensor, "level neuron"]:
    """For each level q, a threshold with a share of at most 1 - q of the values above it, and as many as possible.

    It lies halfway between the smallest value above it and the next one, and where no value may be above it, as far
    from the largest: another pass over the same pictures, which may round in another way, then has the same values
    above it.
    """
    ordered = values.sort(dim=0, descending=True).values
    n = len(values)
    found = []
    for level in levels:
        # In exact arithmetic 1 - 0.9 of ten values is one value; in floating point it is a little less.
        n_above = min(n - 1, int((1 - level) * n + 1e-9))
        if n_above == 0:
            found.append(ordered[0] + (ordered[0] - ordered[min(1, n - 1)]) / 2)
            continue
        above, below = ordered[n_above - 1], ordered[n_above]
        halfway = below + (above - below) / 2
        found.append(torch.where(halfway < above, halfway, below))
    return torch.stack(found)


def _whole(total: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Sums of whole numbers below 2^24 are exact in float32."""
    return total.round().long()
