"""How a sweep is run: cells as rows of shared forward passes, and their first-order estimates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from lens_multimodal.analysis.targets import ResolvedTarget, Target, resolve_targets
from lens_multimodal.hooks.neurons import Neurons, as_neurons
from lens_multimodal.hooks.positions import Positions, as_positions
from lens_multimodal.hooks.record import record
from lens_multimodal.model import host


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchSweep:
    """The target's value for every patched cell, and the first-order estimate of its change."""

    site: str
    """What was patched, such as `resid_pre`."""
    axes: dict[str, list[Any]]
    """Names and labels of the axes, in order: layers, positions, heads, or `(layer, neuron)` pairs."""
    patched: Float[Tensor, "..."]
    """The target's value in the corrupted run with this cell taken from the clean run."""
    estimate: Float[Tensor, "..."]
    """Attribution patching: estimated change of the target's value."""
    clean: float
    corrupted: float
    """The target's value in the two unpatched runs."""

    @property
    def effect(self) -> Float[Tensor, "..."]:
        """Change of the target's value by patching."""
        return self.patched - self.corrupted

    @property
    def recovered(self) -> Float[Tensor, "..."]:
        """Effect as a share of the whole difference between the runs: 0 corrupted, 1 clean."""
        return self.effect / (self.clean - self.corrupted)

    @property
    def correlation(self) -> float:
        """Pearson correlation over cells of the estimate with the effect; NaN if one of them is constant."""
        return float(self._cells().corr().iloc[0, 1])

    @property
    def rank_correlation(self) -> float:
        """Spearman correlation over cells of the estimate with the effect; NaN if one of them is constant."""
        return float(self._cells().rank().corr().iloc[0, 1])

    def table(self) -> pd.DataFrame:
        """One row for each cell: its labels, `patched`, `effect`, `recovered`, `estimate`."""
        rows = pd.DataFrame(product(*self.axes.values()), columns=list(self.axes))
        return rows.assign(
            **{name: _column(getattr(self, name)) for name in ("patched", "effect", "recovered", "estimate")}
        )

    def _cells(self) -> pd.DataFrame:
        return pd.DataFrame({"effect": _column(self.effect), "estimate": _column(self.estimate)})

    def _repr_html_(self) -> str:
        from lens_multimodal.display.results import patch_sweep_html

        return patch_sweep_html(self)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is patched together: some positions of an activation, one unit of it or all."""

    name: str
    positions: tuple[int, ...]
    unit: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """Two prompts, a target read off the corrupted one, and how many runs share a forward pass."""

    model: nn.Module
    clean_tokens: Tensor
    corrupted_tokens: Tensor
    target: ResolvedTarget
    batch_size: int

    @classmethod
    def between(
        cls, model: nn.Module, clean_tokens: Tensor, corrupted_tokens: Tensor, target: Target, batch_size: int
    ) -> "Sweep":
        if clean_tokens.shape != corrupted_tokens.shape or clean_tokens.shape[0] != 1:
            raise ValueError(
                f"expected two prompts of shape [1, pos] and equal length, got {list(clean_tokens.shape)} and "
                f"{list(corrupted_tokens.shape)}; to move patches between unequal prompts see hooks.patch_resid_pre"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if isinstance(target, list):
            raise ValueError(f"a sweep has one target, got a list of {len(target)}; run one sweep for each")
        [resolved] = resolve_targets(target, model, corrupted_tokens)
        return cls(
            model=model,
            clean_tokens=clean_tokens,
            corrupted_tokens=corrupted_tokens,
            target=resolved,
            batch_size=batch_size,
        )

    def positions(self, positions: Positions) -> list[int]:
        chosen = as_positions(positions).mask(self.clean_tokens.shape[1], device=torch.device("cpu"))
        if len(chosen) != 1 or not chosen.any():
            raise ValueError("a sweep needs at least one position of the prompt, given as a list or a slice")
        return chosen[0].nonzero().flatten().tolist()

    def over_sites(
        self, site: str, name_of: Callable[[int], str], layers: list[int], positions: Positions
    ) -> PatchSweep:
        chosen = self.positions(positions)
        cells = [Cell(name=name_of(layer), positions=(p,)) for layer in layers for p in chosen]
        return self.run(site, {"layer": layers, "pos": chosen}, cells)

    def over_heads(self, layers: list[int], groups: list[list[int]], further: dict[str, list[Any]]) -> PatchSweep:
        heads = list(range(host.shape(self.model).n_heads))
        cells = [
            Cell(name=host.head_z(layer), unit=head, positions=tuple(group))
            for layer in layers
            for head in heads
            for group in groups
        ]
        return self.run("heads", {"layer": layers, "head": heads, **further}, cells)

    def over_neurons(self, neurons: Neurons, groups: list[list[int]], further: dict[str, list[Any]]) -> PatchSweep:
        pairs = [(layer, int(unit)) for layer, units in as_neurons(neurons, self.model).items() for unit in units]
        cells = [
            Cell(name=host.mlp_post(layer), unit=unit, positions=tuple(group))
            for layer, unit in pairs
            for group in groups
        ]
        return self.run("neurons", {"neuron": pairs, **further}, cells)

    def run(self, site: str, axes: dict[str, list[Any]], cells: list[Cell]) -> PatchSweep:
        names = list(dict.fromkeys(cell.name for cell in cells))
        shape = [len(labels) for labels in axes.values()]
        clean_run = record(self.model, self.clean_tokens, names)
        estimates = self.estimates(names)
        patched = []
        for start in tqdm(range(0, len(cells), self.batch_size), desc=f"activation patching, {site}", delay=2):
            patched.append(self.values(cells[start : start + self.batch_size], clean_run))
        estimate = torch.stack([_part(estimates[cell.name], cell).sum() for cell in cells])
        return PatchSweep(
            site=site,
            axes=axes,
            patched=torch.cat(patched).reshape(shape),
            estimate=estimate.reshape(shape),
            clean=float(self.unpatched(self.clean_tokens)),
            corrupted=float(self.unpatched(self.corrupted_tokens)),
        )

    def values(self, cells: Sequence[Cell], clean_run: dict[str, Tensor]) -> Float[Tensor, " cell"]:
        """The target's value for each cell, all of them rows of one forward pass."""
        rows: dict[str, list[tuple[int, Cell]]] = {}
        for row, cell in enumerate(cells):
            rows.setdefault(cell.name, []).append((row, cell))
        hooks: list[host.NamedHook] = [
            (name, partial(_paste_hook, clean=clean_run[name][0], rows=of_name)) for name, of_name in rows.items()
        ]
        tokens = self.corrupted_tokens.expand(len(cells), -1)
        with torch.no_grad(), host.fired_hooks(self.model, hooks):
            logits = host.logits_of(self.model, tokens)
        return torch.stack([self.read(row) for row in logits])

    def estimates(self, names: list[str]) -> dict[str, Tensor]:
        clean_run = record(self.model, self.clean_tokens, names)
        kept: dict[str, Tensor] = {}
        # One leaf at the bottom, so that a model with frozen weights has a gradient too.
        hooks: list[host.NamedHook] = [(host.resid_pre(0), _leaf_hook)]
        hooks += [(name, partial(_keep_in_graph_hook, name=name, kept=kept)) for name in names]
        with torch.enable_grad(), host.fired_hooks(self.model, hooks):
            value = self.read(host.logits_of(self.model, self.corrupted_tokens)[0])
            gradients = torch.autograd.grad(value, [kept[name] for name in names])
        return {
            name: ((clean_run[name] - kept[name].detach()) * gradient)[0].to(value.dtype)
            for name, gradient in zip(names, gradients, strict=True)
        }

    def unpatched(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return self.read(host.logits_of(self.model, tokens)[0])

    def read(self, logits: Float[Tensor, "pos d_vocab"]) -> Float[Tensor, ""]:
        value = self.target.value(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        if not bool(torch.isfinite(value)):
            raise FloatingPointError(
                f"the target {self.target.label!r} is {float(value)}; use float32, or a wider dtype"
            )
        return value


def _column(values: Tensor) -> Any:
    return values.flatten().cpu().numpy()


def _part(activation: Tensor, cell: Cell) -> Tensor:
    """A cell's share of an activation `[pos, ...]`."""
    rows = activation[list(cell.positions)]
    return rows if cell.unit is None else rows[:, cell.unit]


def _paste_hook(activation: Tensor, hook: Any, *, clean: Tensor, rows: list[tuple[int, Cell]]) -> Tensor:
    """Hook function: every row gets its own cell of the clean run."""
    pasted = activation.clone()
    for row, cell in rows:
        where = list(cell.positions)
        if cell.unit is None:
            pasted[row, where] = clean[where]
        else:
            pasted[row, where, cell.unit] = clean[where, cell.unit]
    return pasted


def _leaf_hook(activation: Tensor, hook: Any) -> Tensor:
    """Hook function: the same values, from which gradients are wanted."""
    return activation.detach().requires_grad_()


def _keep_in_graph_hook(activation: Tensor, hook: Any, *, name: str, kept: dict[str, Tensor]) -> Tensor:
    """Hook function: keeps what the model goes on with.

    Returning it matters: a bridge reshapes heads for its hooks, and an observer would keep a side branch.
    """
    kept[name] = activation.clone()
    return kept[name]
