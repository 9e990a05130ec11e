"""The exact effect of ablating neurons: what the target loses when they are set to zero.

One row of one forward pass per ablation, many rows at a time. This is what the other scores estimate, and the
yardstick they are held against in `faithfulness`. Positive: the neuron raised the target.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.gradients import check_finite_targets
from lens_multimodal.analysis.attribution.request import Request, Visit, request_for_targets
from lens_multimodal.arguments.targets import ResolvedTarget, Targets, first_read
from lens_multimodal.arguments.units import Neurons, read_neurons


@dataclass(frozen=True, kw_only=True, eq=False)
class Ablated:
    """Neurons set to zero together, at some positions."""

    neurons: Mapping[int, Int[Tensor, " neuron"]]
    positions: Int[Tensor, " pos"]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The exact effect of each neuron at each position by itself: one forward row for every one of them.

    For a real model ask for few layers, or use `ablation_effects` for the neurons of interest.
    """

    batch_size: int = 32
    """Rows of one forward pass; memory grows with it."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")

    def __call__(self, request: Request, visit: Visit) -> None:
        d_mlp = transformer.shape(request.model).d_mlp
        for layer in request.layers:
            cells = [
                Ablated(neurons={layer: torch.tensor([neuron])}, positions=request.positions[i : i + 1])
                for i in range(len(request.positions))
                for neuron in range(d_mlp)
            ]
            effects = [
                ablated_effects(
                    request.model,
                    request.tokens[row : row + 1],
                    [targets[row] for targets in request.passes],
                    cells,
                    batch_size=self.batch_size,
                    attention_mask=None if request.attention_mask is None else request.attention_mask[row : row + 1],
                )
                for row in range(len(request.tokens))
            ]
            for index in range(len(request.passes)):
                scores = torch.stack([effect[index] for effect in effects])
                visit(index, layer, scores.reshape(len(effects), len(request.positions), d_mlp))


def ablation_effects(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    target: Targets,
    neurons: Neurons,
    positions: Any = None,
    *,
    batch_size: int = 32,
    attention_mask: Tensor | None = None,
) -> pd.DataFrame:
    """What a target loses when each of some neurons is set to zero at all the given positions (paper section 3.3).

    Args:
        neurons: as `ablate` takes them.
        positions: where they are set to zero; None for everywhere. The paper takes the image positions.
        batch_size: ablations in one forward pass.
    Returns: columns `target`, `layer`, `neuron`, `effect` (target minus target without the neuron), ordered by target
        and layer.
    Raises: ValueError, TypeError for bad targets, neurons or positions; FloatingPointError for an overflow.
    """
    request = request_for_targets(model, tokens, target, positions, attention_mask=attention_mask)
    by_layer = read_neurons(model, neurons)
    single = [
        Ablated(neurons={layer: index[None]}, positions=request.positions)
        for layer, indices in by_layer.items()
        for index in indices
    ]
    targets = [targets[0] for targets in request.passes]
    effects = ablated_effects(
        model, request.tokens, targets, single, batch_size=batch_size, attention_mask=attention_mask
    )
    tables = [
        pd.DataFrame(
            {
                "target": resolved.label,
                "layer": [layer for layer, indices in by_layer.items() for _ in indices],
                "neuron": [int(index) for indices in by_layer.values() for index in indices],
                "effect": effect.cpu().numpy(),
            }
        )
        for resolved, effect in zip(targets, effects, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def ablated_effects(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    targets: Sequence[ResolvedTarget],
    ablations: Sequence[Ablated],
    *,
    batch_size: int = 32,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "target ablation"]:
    """Clean value of each target minus its value under each ablation.

    The clean value is taken from a row of the same batch, so that rounding does not depend on the batch.
    """
    parts = []
    for chunk in _chunks(ablations, batch_size):
        values = ablated_values(
            model, tokens, targets, [Ablated(neurons={}, positions=torch.arange(0)), *chunk],
            attention_mask=attention_mask,
        )  # fmt: skip
        parts.append(values[:, :1] - values[:, 1:])
    return torch.cat(parts, dim=1)


def ablated_values(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    targets: Sequence[ResolvedTarget],
    ablations: Sequence[Ablated],
    *,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "target ablation"]:
    """Each target under each ablation, all in one forward pass with one row per ablation.

    Raises: FloatingPointError if a value is infinite or not a number.
    """
    n_rows = len(ablations)
    rows = tokens.expand(n_rows, -1).clone()
    mask = None if attention_mask is None else attention_mask.expand(n_rows, -1)
    layers = sorted({layer for ablation in ablations for layer in ablation.neurons})
    first = first_read(targets)
    with (
        torch.no_grad(),
        transformer.fired_hooks(
            model, [(transformer.mlp_post(layer), _zero_rows(ablations, layer)) for layer in layers]
        ),
    ):
        logits = transformer.logits_of(model, rows, attention_mask=mask, first=first)
        values = [torch.stack([t.value(logits[row], first=first) for row in range(n_rows)]) for t in targets]
    check_finite_targets(values, {})
    return torch.stack(values)


def _zero_rows(ablations: Sequence[Ablated], layer: int) -> transformer.HookFunction:
    def zero(activation: Tensor, hook: Any) -> Tensor:
        result = activation.clone()
        for row, ablation in enumerate(ablations):
            if layer in ablation.neurons:
                at = ablation.positions.to(result.device)[:, None]
                result[row, at, ablation.neurons[layer].to(result.device)] = 0
        return result

    return zero


def _chunks(items: Iterable[Ablated], size: int) -> Iterator[list[Ablated]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
