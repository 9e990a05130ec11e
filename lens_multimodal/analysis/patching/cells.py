"""How a sweep is run: cells as rows of shared forward passes, and their first-order estimates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, TypedDict

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from lens_multimodal import transformer
from lens_multimodal.analysis.patching.pairs import Pair
from lens_multimodal.arguments.positions import Positions
from lens_multimodal.arguments.targets import CaptionToken, ResolvedTarget, Target, first_read, read_targets
from lens_multimodal.arguments.units import Neurons, read_neurons
from lens_multimodal.hooks.record import record
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchSweep(ShownInNotebooks):
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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is patched together: some positions of an activation, one unit of it or all."""

    name: str
    positions: tuple[int, ...]
    unit: int | None = None


class SweepSettings(TypedDict, total=False):
    """Settings that every sweep takes."""

    positions: Positions
    """Of the corrupted prompt, to be patched; None for all that are not padding."""
    source_positions: Positions
    """Of the clean prompt, whose activations they get, one by one; None for the same. For prompts of unequal length."""
    clean_mask: Tensor | None
    corrupted_mask: Tensor | None
    """Attention masks `[1, pos]`, zero at left padding, such as `prompt.attention_mask[:1]`. None without padding."""
    batch_size: int
    """Patched runs in one forward pass, 32 if not given; memory grows with it (logits: batch_size * pos * d_vocab)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """Two prompts, a target in each of them, and how many runs share a forward pass.

    Padding is cut off, which changes nothing, and put back where logits are read and positions are named.
    """

    model: nn.Module
    pair: Pair
    target: ResolvedTarget
    clean_target: ResolvedTarget
    batch_size: int

    @classmethod
    def between(
        cls,
        model: nn.Module,
        clean_tokens: Tensor,
        corrupted_tokens: Tensor,
        target: Target,
        *,
        positions: Positions = None,
        source_positions: Positions = None,
        clean_mask: Tensor | None = None,
        corrupted_mask: Tensor | None = None,
        batch_size: int = 32,
    ) -> "Sweep":
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if isinstance(target, list):
            raise ValueError(f"a sweep has one target, got a list of {len(target)}; run one sweep for each")
        pair = Pair.of(
            clean_tokens,
            corrupted_tokens,
            positions=positions,
            source_positions=source_positions,
            clean_mask=clean_mask,
            corrupted_mask=corrupted_mask,
        )
        [resolved] = read_targets(model, target, corrupted_tokens)
        clean_target = resolved
        if clean_tokens.shape != corrupted_tokens.shape:
            if isinstance(target, CaptionToken):
                raise ValueError("in prompts of unequal length a caption token has two places: name the token itself")
            [clean_target] = read_targets(model, target, clean_tokens)
        return cls(model=model, pair=pair, target=resolved, clean_target=clean_target, batch_size=batch_size)

    @property
    def positions(self) -> list[int]:
        return self.pair.positions

    def over_sites(self, site: str, name_of: Callable[[int], str], layers: Sequence[int]) -> PatchSweep:
        cells = [Cell(name=name_of(layer), positions=(p,)) for layer in layers for p in self.positions]
        return self.run(site, {"layer": list(layers), "pos": self.positions}, cells)

    def over_heads(self, layers: Sequence[int], *, by_position: bool) -> PatchSweep:
        groups, further = self._groups(by_position)
        heads = list(range(transformer.shape(self.model).n_heads))
        cells = [
            Cell(name=transformer.head_z(layer), unit=head, positions=tuple(group))
            for layer in layers
            for head in heads
            for group in groups
        ]
        return self.run("heads", {"layer": list(layers), "head": heads, **further}, cells)

    def over_neurons(self, neurons: Neurons, *, by_position: bool) -> PatchSweep:
        groups, further = self._groups(by_position)
        pairs = [(layer, int(unit)) for layer, units in read_neurons(self.model, neurons).items() for unit in units]
        cells = [
            Cell(name=transformer.mlp_post(layer), unit=unit, positions=tuple(group))
            for layer, unit in pairs
            for group in groups
        ]
        return self.run("neurons", {"neuron": pairs, **further}, cells)

    def run(self, site: str, axes: dict[str, list[Any]], cells: list[Cell]) -> PatchSweep:
        names = list(dict.fromkeys(cell.name for cell in cells))
        cells = [replace(cell, positions=tuple(map(self.pair.within, cell.positions))) for cell in cells]
        shape = [len(labels) for labels in axes.values()]
        clean_run = self.clean_run(names)
        estimates = self.estimates(clean_run)
        patched = []
        for start in tqdm(range(0, len(cells), self.batch_size), desc=f"activation patching, {site}", delay=2):
            patched.append(self.values(cells[start : start + self.batch_size], clean_run))
        estimate = torch.stack([_part(estimates[cell.name], cell).sum().to(patched[0].device) for cell in cells])
        clean, corrupted = self.unpatched()
        return PatchSweep(
            site=site,
            axes=axes,
            patched=torch.cat(patched).reshape(shape),
            estimate=estimate.reshape(shape),
            clean=clean,
            corrupted=corrupted,
        )

    def clean_run(self, names: list[str]) -> dict[str, Float[Tensor, "pos ..."]]:
        """Activations of the clean run, laid out along the corrupted prompt."""
        return {name: self.pair.aligned(value[0]) for name, value in record(self.model, self.pair.clean, names).items()}

    def values(self, cells: Sequence[Cell], clean_run: dict[str, Tensor]) -> Float[Tensor, " cell"]:
        """The target's value for each cell, all of them rows of one forward pass."""
        rows: dict[str, list[tuple[int, Cell]]] = {}
        for row, cell in enumerate(cells):
            rows.setdefault(cell.name, []).append((row, cell))
        hooks: list[transformer.NamedHook] = [
            (name, partial(_paste_hook, clean=clean_run[name], rows=of_name)) for name, of_name in rows.items()
        ]
        tokens, first = self.pair.corrupted.expand(len(cells), -1), self._first_read
        with torch.no_grad(), transformer.fired_hooks(self.model, hooks):
            logits = transformer.logits_of(self.model, tokens, first=first)
        return torch.stack([self.read(row, self.target, self.pair.corrupted_padding + first) for row in logits])

    def estimates(self, clean_run: dict[str, Tensor]) -> dict[str, Float[Tensor, "pos ..."]]:
        """The estimated effect of every number in the activations, NaN at positions without a partner."""
        kept: dict[str, Tensor] = {}
        # One leaf at the bottom, so that a model with frozen weights has a gradient too.
        hooks: list[transformer.NamedHook] = [(transformer.resid_pre(0), _leaf_hook)]
        hooks += [(name, partial(_keep_in_graph_hook, name=name, kept=kept)) for name in clean_run]
        with torch.enable_grad(), transformer.fired_hooks(self.model, hooks):
            logits = transformer.logits_of(self.model, self.pair.corrupted, first=self._first_read)[0]
            value = self.read(logits, self.target, self.pair.corrupted_padding + self._first_read)
            gradients = torch.autograd.grad(value, [kept[name] for name in clean_run])
        return {
            name: ((clean - kept[name][0].detach()) * gradient[0]).to(value.dtype)
            for (name, clean), gradient in zip(clean_run.items(), gradients, strict=True)
        }

    def unpatched(self) -> tuple[float, float]:
        """The target's value in the clean and in the corrupted run."""
        pair = self.pair
        with torch.no_grad():
            return (
                float(
                    self.read(transformer.logits_of(self.model, pair.clean)[0], self.clean_target, pair.clean_padding)
                ),
                float(
                    self.read(transformer.logits_of(self.model, pair.corrupted)[0], self.target, pair.corrupted_padding)
                ),
            )

    @property
    def _first_read(self) -> int:
        """The first position of the corrupted prompt, padding aside, whose logits are wanted."""
        return max(0, first_read([self.target]) - self.pair.corrupted_padding)

    def read(self, logits: Float[Tensor, "pos d_vocab"], target: ResolvedTarget, first: int) -> Float[Tensor, ""]:
        """The target's value; `first` is the position of the first logits along the prompt as it was given."""
        if target.pos is None:
            value = target.value(torch.nn.functional.pad(wide(logits), (0, 0, first, 0)))
        else:
            value = target.value(logits, first=first)
        if not bool(torch.isfinite(value)):
            raise FloatingPointError(
                f"the target {target.label!r} is {float(value.detach())}; use float32, or a wider dtype"
            )
        return value

    def _groups(self, by_position: bool) -> tuple[list[list[int]], dict[str, list[Any]]]:
        """Positions patched together, and the axis they make."""
        return ([[p] for p in self.positions], {"pos": self.positions}) if by_position else ([self.positions], {})


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
