"""What every attribution score is given, and the form in which it answers.

A score is a small frozen object with its settings. Called with a request it visits each layer once per pass and
hands over `[batch, pos, d_mlp]`; whoever asked keeps all of it or only the largest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_multimodal.arguments.positions import positions_in
from lens_multimodal.arguments.targets import ResolvedTarget, Targets, read_targets
from lens_multimodal.arguments.units import read_layers

Visit: TypeAlias = Callable[[int, int, Tensor], None]
"""Called with the pass, the layer and the scores `[batch, pos, d_mlp]`, float32 or wider."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """Prompts, targets and neurons of one attribution, checked."""

    model: nn.Module
    tokens: Int[Tensor, "batch prompt_pos"]
    attention_mask: Tensor | None
    passes: tuple[tuple[ResolvedTarget, ...], ...]
    """Each pass has one target per row of `tokens`."""
    positions: Int[Tensor, " pos"]
    layers: tuple[int, ...]


Score: TypeAlias = Callable[[Request, Visit], None]
"""Visits the scores of all neurons of the requested layers at the requested positions."""


def request_for_targets(
    model: nn.Module,
    tokens: Int[Tensor, "batch prompt_pos"],
    targets: Targets,
    positions: Any,
    *,
    layers: Any = None,
    attention_mask: Tensor | None = None,
) -> Request:
    """One prompt, one pass for each of its targets. Raises: ValueError for more than one row; see `Request`."""
    _check_tokens(tokens, attention_mask)
    tokens, attention_mask = _differentiable(tokens), _differentiable(attention_mask)
    if len(tokens) != 1:
        raise ValueError(
            f"expected one prompt, got tokens of shape {list(tokens.shape)}; for a batch with one target per "
            f"row there are neuron_attribution_by_row and top_neurons_by_row"
        )
    resolved = read_targets(model, targets, tokens)
    return Request(
        model=model,
        tokens=tokens,
        attention_mask=attention_mask,
        passes=tuple((target,) for target in resolved),
        positions=_differentiable(positions_in(positions, tokens.shape[1])),
        layers=read_layers(model, layers),
    )


def request_by_row(
    model: nn.Module,
    tokens: Int[Tensor, "batch prompt_pos"],
    targets: list[Any],
    positions: Any,
    *,
    layers: Any = None,
    attention_mask: Tensor | None = None,
) -> Request:
    """Several prompts of one length, one target for each: a single pass.

    Raises: ValueError unless there are as many targets as rows.
    """
    _check_tokens(tokens, attention_mask)
    tokens, attention_mask = _differentiable(tokens), _differentiable(attention_mask)
    if not isinstance(targets, list) or len(targets) != len(tokens):
        got = f"{len(targets)} targets" if isinstance(targets, list) else f"a {type(targets).__name__}"
        raise ValueError(f"expected a list of {len(tokens)} targets, one per row of tokens, got {got}")
    resolved = tuple(read_targets(model, target, tokens[row : row + 1])[0] for row, target in enumerate(targets))
    return Request(
        model=model,
        tokens=tokens,
        attention_mask=attention_mask,
        passes=(resolved,),
        positions=_differentiable(positions_in(positions, tokens.shape[1])),
        layers=read_layers(model, layers),
    )


def run_score(score: Score, request: Request, visit: Visit) -> None:
    """Run a score on normal tensors, also when called under `torch.inference_mode`."""
    with torch.inference_mode(False):
        score(request, visit)


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


def _differentiable(values: Any) -> Any:
    """A tensor made under inference mode as a normal one, anything else as it is."""
    if not isinstance(values, Tensor) or not values.is_inference():
        return values
    with torch.inference_mode(False):
        return values.clone()
