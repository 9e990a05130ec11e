"""Attribution: each MLP neuron's share in a target, at every position and in every layer (paper section 2.1).

    g[k, p] = A[k, p] * d target / d A[k, p]        A: activation after the non-linearity, p: position

All layers share one ranking; a neuron's score is its maximum over the image positions. Other scores have the same
call: pass their name, or an object with settings such as `IntegratedGradients(steps=32)` (see `scores`).

Activation times gradient does not depend on weight processing, except that a centred unembedding shifts the
raw logit (see `targets`). Scores that read `W_out @ W_U` directly do depend on it.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.attribution_inputs import (
    AttributionInputs,
    Score,
    TargetsByRow,
    inputs_by_row,
    inputs_for_targets,
    run_score,
)
from lens_multimodal.analysis.attribution.scores import read_score
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.positions import Positions
from lens_multimodal.arguments.score_names import REDUCTIONS
from lens_multimodal.arguments.targets import Targets
from lens_multimodal.arguments.units import Layers


@public
def neuron_attribution(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    target: Targets,
    positions: Positions = None,
    *,
    score: str | Score = "activation_x_gradient",
    layers: Layers = None,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "target layer pos d_mlp"]:
    """Contribution of every MLP neuron to one or several targets.

    Args:
        model: any TransformerLens model.
        target: a token id or string (its raw logit at the last position), `(pos, token)`, a target object, a function
            of the logits, or a list of those. They share one forward pass.
        positions: where neurons are scored, in this order; None for all.
        score: a name in `SCORES`, or a score object.
        layers: None for all. From a later layer on, memory shrinks: nothing below it is recorded.
    Returns: positive raises the target; in the target's unit; axes follow the order of targets, ascending layers, the
        order of positions.
    Raises:
        ValueError: targets, positions or layers that do not exist; an unknown score; several prompts.
        TypeError: arguments of another type.
        FloatingPointError: infinite or undefined activations, targets or gradients.
    Cost: one forward pass, and one backward pass per target (other scores: see their classes). The result itself
        has `targets * layers * positions * d_mlp` numbers; `top_neurons` keeps only the largest.
    """
    inputs = inputs_for_targets(model, tokens, target, positions, layers=layers, attention_mask=attention_mask)
    return _collect(inputs, score)[:, 0]


@public
def neuron_attribution_by_row(
    model: nn.Module,
    tokens: Int[Tensor, "batch prompt_pos"],
    targets: TargetsByRow,
    positions: Positions = None,
    *,
    score: str | Score = "activation_x_gradient",
    layers: Layers = None,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "batch layer pos d_mlp"]:
    """`neuron_attribution` for a batch of prompts with one target each: one forward and one backward in all.

    Positions count along the padded rows and are the same for each.
    """
    inputs = inputs_by_row(model, tokens, targets, positions, layers=layers, attention_mask=attention_mask)
    return _collect(inputs, score)[0]


@public
def top_neurons(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    target: Targets,
    positions: Positions = None,
    *,
    top_k: int = 100,
    score: str | Score = "activation_x_gradient",
    reduce: str = "max",
    layers: Layers = None,
    attention_mask: Tensor | None = None,
) -> pd.DataFrame:
    """The neurons with the largest attribution, all layers in one ranking; reduced while it is computed.

    Args: as `neuron_attribution`, and
        top_k: rows per target; all neurons if there are fewer.
        reduce: over positions: "max" (paper), "sum" or "mean".
    Returns: columns `target`, `rank` (from 0), `layer`, `neuron`, `attribution` (reduced), `pos` (where the neuron's
        attribution is largest). `attrs` records score, reduction and weight processing.
    """
    inputs = inputs_for_targets(model, tokens, target, positions, layers=layers, attention_mask=attention_mask)
    return _rank(inputs, score, reduce, top_k).drop(columns="row")


@public
def top_neurons_by_row(
    model: nn.Module,
    tokens: Int[Tensor, "batch prompt_pos"],
    targets: TargetsByRow,
    positions: Positions = None,
    *,
    top_k: int = 100,
    score: str | Score = "activation_x_gradient",
    reduce: str = "max",
    layers: Layers = None,
    attention_mask: Tensor | None = None,
) -> pd.DataFrame:
    """`top_neurons` for a batch of prompts with one target each; a further column `row` says which prompt."""
    inputs = inputs_by_row(model, tokens, targets, positions, layers=layers, attention_mask=attention_mask)
    return _rank(inputs, score, reduce, top_k)


def reduce_positions(scores: Float[Tensor, "... pos d_mlp"], reduce: str) -> Float[Tensor, "... d_mlp"]:
    """One number per neuron. Raises: ValueError for a reduction that is not in `REDUCTIONS`."""
    _check_reduction(reduce)
    if reduce == "max":
        return scores.amax(dim=-2)
    return scores.sum(dim=-2) if reduce == "sum" else scores.mean(dim=-2)


def _check_reduction(reduce: Any) -> None:
    if not isinstance(reduce, str) or reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")


def _collect(inputs: AttributionInputs, score: str | Score) -> Float[Tensor, "target batch layer pos d_mlp"]:
    place = {layer: index for index, layer in enumerate(inputs.layers)}
    sizes = len(inputs.targets), len(inputs.tokens), len(place), len(inputs.positions)
    result: list[Tensor] = []

    def keep(index: int, layer: int, scores: Tensor) -> None:
        if not result:
            device = inputs.tokens.device
            result.append(torch.empty(*sizes, scores.shape[-1], dtype=scores.dtype, device=device))
        result[0][index, :, place[layer]] = scores.to(result[0].device)

    run_score(read_score(score), inputs, keep)
    return result[0]


def _rank(inputs: AttributionInputs, score: str | Score, reduce: str, top_k: int) -> pd.DataFrame:
    _check_reduction(reduce)
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k must be a positive integer, got {top_k!r}")
    positions = inputs.positions
    found: dict[int, list[tuple[int, Tensor, Tensor, Tensor]]] = {i: [] for i in range(len(inputs.targets))}

    def keep(index: int, layer: int, scores: Tensor) -> None:
        reduced = reduce_positions(scores, reduce)
        values, neurons = reduced.topk(min(top_k, reduced.shape[-1]), dim=-1)
        where = scores.gather(2, neurons[:, None].expand(-1, scores.shape[1], -1)).argmax(dim=1)
        found[index].append((layer, values, neurons, where))

    run_score(read_score(score), inputs, keep)
    columns = [
        _columns(found[index], row, target.label, positions, top_k)
        for index, targets in enumerate(inputs.targets)
        for row, target in enumerate(targets)
    ]
    table = pd.DataFrame({name: np.concatenate([part[name] for part in columns]) for name in columns[0]})
    table.attrs.update(
        score=score if isinstance(score, str) else repr(score),
        reduce=reduce,
        weight_processing=transformer.weight_processing(inputs.model),
    )
    return table


def _columns(
    found: list[tuple[int, Tensor, Tensor, Tensor]], row: int, label: str, positions: Tensor, top_k: int
) -> dict[str, Any]:
    """The rows of one target, by column."""
    found = sorted(found, key=lambda part: part[0])
    layers = torch.cat([torch.full_like(index[row], layer).cpu() for layer, _, index, _ in found])
    values, neurons, where = (torch.cat([tensors[i][row].cpu() for _, *tensors in found]) for i in range(3))
    best = values.argsort(descending=True, stable=True)[:top_k]
    return {
        "row": np.full(len(best), row),
        "target": np.full(len(best), label, dtype=object),
        "rank": np.arange(len(best)),
        "layer": layers[best].numpy(),
        "neuron": neurons[best].numpy(),
        "attribution": values[best].numpy(),
        "pos": positions[where[best]].numpy(),
    }
