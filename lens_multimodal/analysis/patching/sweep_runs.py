"""How a sweep runs: every patched cell is a row of a forward pass, and one backward pass estimates them all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.ablation_effect import values_by_row
from lens_multimodal.analysis.attribution.autograd_graph import normal_tensor
from lens_multimodal.analysis.attribution.gradients import each_gradient
from lens_multimodal.analysis.effects.by_row import Replaced, batches
from lens_multimodal.analysis.patching.pairs import Pair
from lens_multimodal.analysis.patching.patch_sweep import PatchSweep
from lens_multimodal.arguments.boundary import ArgumentValueError
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.arguments.targets import CaptionToken, ResolvedTarget, Targets, read_targets
from lens_multimodal.hooks.record import record
from lens_multimodal.hooks.replacement import Resample
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a sweep patches, and along which axes its cells lie."""

    name: str
    name_of: Callable[[int], str]
    """Layer → hook name."""
    heads: bool = False
    by_position: bool = True
    """Whether each position is a cell of its own; otherwise all chosen positions are patched together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepRuns:
    """Two prompts without their padding, and a target in each of them."""

    model: nn.Module
    pair: Pair
    target: ResolvedTarget
    clean_target: ResolvedTarget
    batch_size: int

    @classmethod
    def of(
        cls,
        model: nn.Module,
        clean_tokens: Tensor,
        corrupted_tokens: Tensor,
        target: Targets,
        *,
        positions: Positions = None,
        source_positions: Positions = None,
        clean_mask: Tensor | None = None,
        corrupted_mask: Tensor | None = None,
        batch_size: int = 32,
    ) -> "SweepRuns":
        if batch_size < 1:
            raise ArgumentValueError(f"expected a positive number, got {batch_size}", "batch_size")
        pair = Pair.of(
            clean_tokens,
            corrupted_tokens,
            positions=positions,
            source_positions=source_positions,
            clean_mask=clean_mask,
            corrupted_mask=corrupted_mask,
        )
        if clean_tokens.shape != corrupted_tokens.shape and isinstance(target, CaptionToken):
            raise ArgumentValueError(
                "in prompts of unequal length a caption token has two positions; name the token itself", "target"
            )
        corrupted_targets = read_targets(model, target, corrupted_tokens)
        if len(corrupted_targets) != 1:
            raise ArgumentValueError(
                f"a sweep has one target, got {len(corrupted_targets)}; run one sweep for each", "target"
            )
        [resolved] = corrupted_targets
        same = clean_tokens.shape == corrupted_tokens.shape
        [clean_target] = [resolved] if same else read_targets(model, target, clean_tokens)
        return cls(
            model=model,
            pair=pair,
            target=pair.without_padding(resolved, pair.corrupted_padding),
            clean_target=pair.without_padding(clean_target, pair.clean_padding),
            batch_size=batch_size,
        )

    def sweep(self, site: Site, axes: Mapping[str, list[Any]], units: Sequence[tuple[int, int | None]]) -> PatchSweep:
        """Patch each unit, given as (layer, head or neuron); None for all of an activation."""
        positions, within = self.pair.positions, list(map(self.pair.within, self.pair.positions))
        groups = [read_positions(group) for group in ([[p] for p in within] if site.by_position else [within])]
        cells = [
            Replaced(name=site.name_of(layer), positions=group, units=None if unit is None else torch.tensor([unit]))
            for (layer, unit), group in product(units, groups)
        ]
        axes = {**axes, **({"pos": positions} if site.by_position else {})}
        shape = [len(labels) for labels in axes.values()]
        names = list(dict.fromkeys(cell.name for cell in cells))
        with transformer.running_alike(self.model, [transformer.resid_pre(0), *names]):
            clean_activations = self.clean_activations(names)
            estimates = self.estimates(clean_activations)
            patched = self.patched(site.name, cells, clean_activations)
            clean = self._value(self.pair.clean, self.clean_target)
            corrupted = self._value(self.pair.corrupted, self.target)
        estimate = torch.stack([_part(estimates[cell.name], cell).sum().to(patched.device) for cell in cells])
        return PatchSweep(
            site=site.name,
            axes=axes,
            patched=patched.reshape(shape),
            estimate=estimate.reshape(shape),
            clean=clean,
            corrupted=corrupted,
        )

    def clean_activations(self, names: list[str]) -> dict[str, Float[Tensor, "pos ..."]]:
        """Activations of the clean run, laid out along the corrupted prompt."""
        return {name: self.pair.aligned(value[0]) for name, value in record(self.model, self.pair.clean, names).items()}

    def patched(
        self, site: str, cells: Sequence[Replaced], clean_activations: Mapping[str, Tensor]
    ) -> Float[Tensor, " cell"]:
        """The target's value for each cell, every one a row of a forward pass."""
        to = Resample({name: value[None] for name, value in clean_activations.items()})
        size = self.batch_size
        parts: list[Tensor] = []
        for batch in tqdm(list(batches(len(cells), size)), desc=f"activation patching, {site}", delay=2):
            rows = [[cell] for cell in cells[batch]]
            parts += values_by_row(self.model, self.pair.corrupted, [self.target], rows, batch_size=size, to=to)
        return torch.cat(parts)

    def estimates(self, clean_activations: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "pos ..."]]:
        """The estimated effect of every number in the activations, NaN at positions without a partner."""
        found: dict[str, Tensor] = {}

        def keep(_: int, name: str, activation: Tensor, gradient: Tensor) -> None:
            found[name] = wide((clean_activations[name] - activation[0]) * gradient[0])

        each_gradient(
            self.model,
            normal_tensor(self.pair.corrupted),
            [[self.target]],
            {name: name for name in clean_activations},
            keep,
            start=0,
            ends=clean_activations.keys(),
        )
        return {name: found[name] for name in clean_activations}

    def _value(self, tokens: Tensor, target: ResolvedTarget) -> float:
        return float(values_by_row(self.model, tokens, [target], [[]], batch_size=1))


def _part(activation: Tensor, cell: Replaced) -> Tensor:
    """A cell's share of an activation `[pos, ...]`."""
    rows = activation[cell.positions.index(len(activation), device=activation.device)]
    return rows if cell.units is None else rows[:, int(cell.units)]
