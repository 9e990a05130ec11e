"""What every attribution score is given, and how it hands over its results.

A score is a small frozen object with its settings. Called with the inputs of an attribution it hands over
`[batch, pos, d_mlp]` once for each target and layer; the caller keeps all of it or only the largest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_multimodal.analysis.attribution.autograd_graph import normal_tensor
from lens_multimodal.arguments.boundary import ArgumentValueError
from lens_multimodal.arguments.positions import Positions, positions_in
from lens_multimodal.arguments.targets import ResolvedTarget, Targets, read_targets
from lens_multimodal.arguments.units import Layers, read_layers

TargetsByRow: TypeAlias = list[Any] | np.ndarray | Tensor
"""A list of targets, one for each row; or a tensor or array of token ids."""

Receive: TypeAlias = Callable[[int, int, Tensor], None]
"""Called with the target's index, the layer and the scores `[batch, pos, d_mlp]`, float32 or wider."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributionInputs:
    """Prompts, targets, positions and layers of one attribution, checked."""

    model: nn.Module
    tokens: Int[Tensor, "batch prompt_pos"]
    attention_mask: Tensor | None
    targets: tuple[tuple[ResolvedTarget, ...], ...]
    """Each target as it reads each row of `tokens`: `targets[index][row]`."""
    positions: Int[Tensor, " pos"]
    layers: tuple[int, ...]


Score: TypeAlias = Callable[[AttributionInputs, Receive], None]
"""Hands over the scores of all neurons of the given layers at the given positions."""


def inputs_for_targets(
    model: nn.Module,
    tokens: Int[Tensor, "batch prompt_pos"],
    target: Targets,
    positions: Positions,
    *,
    layers: Layers = None,
    attention_mask: Tensor | None = None,
) -> AttributionInputs:
    """One prompt and any number of targets. Raises: ValueError for more than one row; as the readers of arguments."""
    _check_tokens(tokens, attention_mask)
    if len(tokens) != 1:
        raise ValueError(
            f"expected one prompt, got tokens of shape {list(tokens.shape)}; for a batch with one target per "
            f"row there are neuron_attribution_by_row and top_neurons_by_row"
        )
    targets = [(resolved,) for resolved in read_targets(model, target, tokens)]
    return _inputs(model, tokens, targets, positions, layers, attention_mask)


def inputs_by_row(
    model: nn.Module,
    tokens: Int[Tensor, "batch prompt_pos"],
    targets: TargetsByRow,
    positions: Positions,
    *,
    layers: Layers = None,
    attention_mask: Tensor | None = None,
) -> AttributionInputs:
    """Several prompts of equal length, one target for each row.

    Raises: ValueError unless there are as many targets as rows.
    """
    _check_tokens(tokens, attention_mask)
    listed = targets.tolist() if isinstance(targets, Tensor | np.ndarray) else targets
    if not isinstance(listed, list) or len(listed) != len(tokens):
        got = f"{len(listed)} targets" if isinstance(listed, list) else f"a {type(listed).__name__}"
        raise ArgumentValueError(
            f"expected a list of {len(tokens)} targets, one per row of tokens, got {got}", "targets"
        )
    by_row = tuple(read_targets(model, one, tokens[row : row + 1], name="targets")[0] for row, one in enumerate(listed))
    return _inputs(model, tokens, [by_row], positions, layers, attention_mask)


def run_score(score: Score, inputs: AttributionInputs, receive: Receive) -> None:
    """Run a score on normal tensors, also when called under `torch.inference_mode`."""
    with torch.inference_mode(False):
        score(inputs, receive)


def _inputs(
    model: nn.Module,
    tokens: Tensor,
    targets: Sequence[tuple[ResolvedTarget, ...]],
    positions: Positions,
    layers: Layers,
    attention_mask: Tensor | None,
) -> AttributionInputs:
    return AttributionInputs(
        model=model,
        tokens=normal_tensor(tokens),
        attention_mask=normal_tensor(attention_mask),
        targets=tuple(targets),
        positions=normal_tensor(positions_in(positions, tokens.shape[1])),
        layers=read_layers(model, layers),
    )


def _check_tokens(tokens: Any, attention_mask: Any) -> None:
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        got = f"{tokens.dtype} {list(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"expected token ids [batch, pos], got {got}")
    if tokens.numel() == 0:
        raise ValueError(f"the prompt is empty: tokens have shape {list(tokens.shape)}")
    if attention_mask is not None and attention_mask.shape != tokens.shape:
        raise ValueError(
            f"attention_mask has shape {list(attention_mask.shape)}, expected that of tokens, {list(tokens.shape)}"
        )
