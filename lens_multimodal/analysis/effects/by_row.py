"""Many interventions in one forward pass: every row of a batch has its own units replaced.

The rows may be one prompt many times or different prompts of equal length. Ablation curves, the exact effect of each
neuron, activation patching sweeps, reading nouns and writing captions all work this way, so they cost one forward pass
for each batch of interventions, not one for each intervention.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.positions import Positions, PositionSet, read_positions
from lens_multimodal.hooks.ablate import ZERO
from lens_multimodal.hooks.editing import Place
from lens_multimodal.hooks.replacement import Replacement
from lens_multimodal.precision import wide
from lens_multimodal.prompt.image_prompt import ImagePrompt

ByLayer: TypeAlias = Mapping[int, Tensor] | pd.DataFrame
"""Neurons that were already checked: indices by layer, or a table with columns `layer` and `neuron`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Replaced:
    """Units of one activation that are replaced together at some positions of one row."""

    name: str
    """The hook point's name."""
    positions: PositionSet
    units: Int[Tensor, " unit"] | None = None
    """Neurons or heads; None for the whole activation."""


@runtime_checkable
class Captioner(Protocol):
    """What is needed from a `VisionLens`."""

    model: nn.Module

    def generate(
        self, prompt: ImagePrompt, *, max_new_tokens: int = 20, hooks: Sequence[transformer.NamedHook] = ()
    ) -> list[str]:
        """The greedy text that follows each row, under some hooks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How some tokens are predicted in some rows, each token at its own position."""

    logit: Float[Tensor, "row token"]
    log_probability: Float[Tensor, "row token"]
    rank: Int[Tensor, "row token"]
    """Number of tokens with a larger logit; 0 is the model's first choice."""

    @property
    def probability(self) -> Float[Tensor, "row token"]:
        return self.log_probability.double().exp()

    @classmethod
    def joined(cls, parts: "Sequence[Reading]") -> "Reading":
        """The rows of several readings, one after the other."""
        return cls(
            logit=torch.cat([part.logit for part in parts]),
            log_probability=torch.cat([part.log_probability for part in parts]),
            rank=torch.cat([part.rank for part in parts]),
        )


def read_without(
    model: nn.Module,
    tokens: Int[Tensor, "row prompt_pos"],
    reads: Sequence[tuple[int, int]],
    without: Sequence[ByLayer | None],
    *,
    positions: Positions,
    batch_size: int,
) -> Reading:
    """Run each row with its neurons at zero and read how some tokens are predicted.

    Args:
        reads: (position, token) pairs: the token's prediction is read at the position.
        without: for each row its neurons, or None for the untouched model.
        positions: where neurons are set to zero.
    Raises: FloatingPointError for logits that are not finite.
    """
    where = read_positions(positions)
    rows = [replaced_neurons(neurons, where) for neurons in without]
    first = min(pos for pos, _ in reads)
    batches = logits_by_row(model, tokens, rows, batch_size=batch_size, first=first)
    return Reading.joined([_reading(logits, reads, first) for logits in batches])


def read_logits(
    model: nn.Module,
    tokens: Int[Tensor, "row prompt_pos"],
    reads: Sequence[tuple[int, int]],
    hooks: Sequence[transformer.NamedHook],
) -> Reading:
    """One forward pass with any hooks, read as in `read_without`."""
    first = min(pos for pos, _ in reads)
    with torch.no_grad():
        return _reading(transformer.logits_of(model, tokens, first=first, hooks=hooks), reads, first)


def captions_without(
    lens: Captioner,
    tokens: Int[Tensor, "row prompt_pos"],
    without: Sequence[ByLayer | None],
    *,
    positions: Positions,
    max_new_tokens: int,
    batch_size: int,
    to: Replacement = ZERO,
) -> list[str]:
    """The greedy caption of each row with its neurons replaced, zero if nothing else is given; see `read_without`."""
    where = read_positions(positions)
    rows = [replaced_neurons(neurons, where) for neurons in without]
    passes, names, captions = transformer.passes_of(lens.model), _names(rows), []
    with transformer.running_alike(lens.model, names):
        for batch in batches(len(rows), batch_size):
            prompt = ImagePrompt(
                tokens=tokens[batch],
                attention_mask=torch.ones_like(tokens[batch]),
                spans=tuple(() for _ in tokens[batch]),
            )
            hooks = hooks_by_row(rows[batch], passes=passes, to=to)
            captions += lens.generate(prompt, max_new_tokens=max_new_tokens, hooks=hooks)
    return captions


def replaced_neurons(neurons: ByLayer | None, positions: PositionSet) -> list[Replaced]:
    """What one row has replaced: some MLP neurons at some positions; nothing for None."""
    if neurons is None:
        return []
    if isinstance(neurons, pd.DataFrame):
        layers, units = neurons["layer"].to_numpy(), neurons["neuron"].to_numpy(dtype=np.int64)
        neurons = {layer: torch.from_numpy(units[layers == layer]) for layer in np.unique(layers).tolist()}
    return [
        Replaced(name=transformer.mlp_post(layer), positions=positions, units=units) for layer, units in neurons.items()
    ]


def distinct(rows: Sequence[Sequence[Replaced]]) -> tuple[list[Sequence[Replaced]], list[int]]:
    """The rows that replace different units, and for each row the place of its equal among them.

    Curves share their ends: nothing replaced, and everything.
    """
    found: dict[frozenset[tuple[str, int, frozenset[int] | None]], int] = {}
    different: list[Sequence[Replaced]] = []
    index = []
    for row in rows:
        key = frozenset(
            (part.name, id(part.positions), None if part.units is None else frozenset(part.units.tolist()))
            for part in row
        )
        if key not in found:
            found[key] = len(different)
            different.append(row)
        index.append(found[key])
    return different, index


def logits_by_row(
    model: nn.Module,
    tokens: Int[Tensor, "rows prompt_pos"],
    rows: Sequence[Sequence[Replaced]],
    *,
    batch_size: int,
    first: int = 0,
    to: Replacement = ZERO,
    attention_mask: Tensor | None = None,
) -> Iterator[Float[Tensor, "row pos_from_first d_vocab"]]:
    """Run rows in batches, each with its own units replaced.

    Rounding depends on the size of a batch and on a row's place in it, so the same row can differ in its last digits
    from batch to batch.

    Args:
        tokens: one prompt for each row, or one for all rows.
        rows: what each row has replaced.
        batch_size: at most this many rows in a pass; fewer on a CPU where that is faster.
        first: as in `transformer.logits_of`.
        to: what units are replaced with.
    Yields: the logits of the rows of one batch.
    """
    passes = transformer.passes_of(model)
    names = _names(rows)
    for batch in batches(len(rows), transformer.rows_at_once(model, tokens.shape[1], most=batch_size)):
        prompts, mask = (_rows_of(values, len(rows), batch) for values in (tokens, attention_mask))
        hooks = hooks_by_row(rows[batch], passes=passes, to=to)
        with torch.no_grad(), transformer.running_alike(model, names):
            logits = transformer.logits_of(model, prompts, attention_mask=mask, first=first, hooks=hooks)
        yield logits


def hooks_by_row(
    rows: Sequence[Sequence[Replaced]], *, passes: transformer.Passes, to: Replacement = ZERO
) -> list[transformer.NamedHook]:
    """Hooks that replace each row's own units; `passes` are those of the model that will run under them."""
    groups: dict[str, dict[tuple[int, bool], list[tuple[int, Replaced]]]] = {}
    for row, replaced in enumerate(rows):
        for part in replaced:
            same = (id(part.positions), part.units is None)
            groups.setdefault(part.name, {}).setdefault(same, []).append((row, part))
    return [
        (
            name,
            partial(replace_by_row_hook, groups=[_Group.of(members, passes) for members in by.values()], to=to),
        )
        for name, by in groups.items()
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """Rows that have units of one activation replaced at the same positions, so that one edit serves all of them."""

    place: Place
    rows: Int[Tensor, "unit 1"]
    """The row of each unit; of each whole activation where units are None."""
    units: Int[Tensor, "unit 1"] | None

    @classmethod
    def of(cls, members: Sequence[tuple[int, Replaced]], passes: transformer.Passes) -> "_Group":
        units = [part.units.cpu() for _, part in members if part.units is not None]
        repeats = torch.tensor([1 if part.units is None else len(part.units) for _, part in members])
        first = members[0][1]
        return cls(
            place=Place(name=first.name, positions=first.positions, passes=passes),
            rows=torch.tensor([row for row, _ in members]).repeat_interleave(repeats)[:, None],
            units=torch.cat(units)[:, None] if units else None,
        )

    def index(self, activation: Tensor) -> tuple[Tensor, ...] | None:
        """Where an activation is edited, as `[unit, pos]`; None if this pass has none of the positions."""
        device = activation.device
        at, _ = self.place.within(activation)
        if not len(at):
            return None
        units = () if self.units is None else (self.units.to(device),)
        return self.rows.to(device), at[None], *units


def replace_by_row_hook(activation: Tensor, hook: Any, *, groups: Sequence[_Group], to: Replacement) -> Tensor:
    """Hook function: a copy of the activation in which each row has its own units replaced."""
    result = activation
    for group in groups:
        index = group.index(activation)
        if index is None:
            continue
        if result is activation:
            result = activation.clone()
        result[index] = to.values(activation, group.place)[index].to(result.dtype)
    return result


def _reading(
    logits: Float[Tensor, "row pos_from_first d_vocab"], reads: Sequence[tuple[int, int]], first: int
) -> Reading:
    logits = wide(logits[:, [pos - first for pos, _ in reads]])
    if not bool(logits.isfinite().all()):
        raise FloatingPointError(f"logits are not finite in {logits.dtype}; run the model in float32 or bfloat16")
    index = torch.tensor([token for _, token in reads], device=logits.device).expand(len(logits), -1)[..., None]
    chosen = logits.gather(-1, index)
    return Reading(
        logit=chosen[..., 0].cpu(),
        log_probability=logits.log_softmax(-1).gather(-1, index)[..., 0].cpu(),
        rank=(logits > chosen).sum(-1).cpu(),
    )


def _names(rows: Sequence[Sequence[Replaced]]) -> set[str]:
    """The hook points at which any row has something replaced."""
    return {part.name for replaced in rows for part in replaced}


def _rows_of(values: Any, n_rows: int, batch: slice) -> Any:
    """Some rows of a tensor that has one row for each or one for all; None as it is."""
    return None if values is None else values.expand(n_rows, -1)[batch]


def batches(n_rows: int, most: int) -> Iterator[slice]:
    """As few consecutive slices of at most `most` rows as possible, of sizes that differ by one at most."""
    n_batches = -(-n_rows // most)
    edges = [n_rows * batch // max(1, n_batches) for batch in range(n_batches + 1)]
    return (slice(*pair) for pair in pairwise(edges))
