"""Integrated gradients of a layer's neurons, from zero to their activations.

For one layer, its neurons at the given positions are scaled together, `alpha * A` with alpha from 0 to 1,
while everything before them stays and everything after them is recomputed:

    attribution[k, p] = A[k, p] * integral over alpha of (d target / d A[k, p] at alpha * A)

Completeness: summed over the layer's neurons and the positions, this is `target - target with all of them zero`, so
each layer accounts for its own joint ablation. Layers must not be added up: they act through each other.
The integral is taken by Gauss-Legendre quadrature, exact where the target is a polynomial in alpha of degree
`2 * steps - 1`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.attribution_inputs import AttributionInputs, Receive
from lens_multimodal.analysis.attribution.autograd_graph import check_finite_targets, gradients_on
from lens_multimodal.analysis.effects.by_row import batches
from lens_multimodal.arguments.targets import first_read
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    """Activation times the mean gradient on the way from zero. Cost: `steps` forward and backward rows a layer."""

    steps: int = 8
    batch_size: int = 8
    """Rows of one forward pass; memory grows with it."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be positive, got {self.steps} and {self.batch_size}")

    def __call__(self, inputs: AttributionInputs, receive: Receive) -> None:
        nodes, shares = np.polynomial.legendre.leggauss(self.steps)
        alphas, weights = torch.tensor((nodes + 1) / 2), torch.tensor(shares / 2)
        for layer in inputs.layers:
            by_row = [self._layer(inputs, layer, row, alphas, weights) for row in range(len(inputs.tokens))]
            for index in range(len(inputs.targets)):
                receive(index, layer, torch.stack([scores[index] for scores in by_row]))

    def _layer(
        self, inputs: AttributionInputs, layer: int, row: int, alphas: Tensor, weights: Tensor
    ) -> list[Float[Tensor, "pos d_mlp"]]:
        """Scores of one layer and prompt for each target."""
        totals: list[Tensor] = []
        for batch in batches(self.steps, self.batch_size):
            for index, part in enumerate(_weighted(inputs, layer, row, alphas[batch], weights[batch])):
                if index == len(totals):
                    totals.append(part)
                else:
                    totals[index] += part
        return totals


def _weighted(
    inputs: AttributionInputs, layer: int, row: int, alphas: Tensor, weights: Tensor
) -> list[Float[Tensor, "pos d_mlp"]]:
    """Activation times the weighted sum of its gradients at some points of the way, for each target."""
    kept: dict[str, Tensor] = {}
    leaves: list[Tensor] = []
    name = transformer.mlp_post(layer)

    def scale(activation: Tensor, hook: Any) -> Tensor:
        at = inputs.positions.to(activation.device)
        clean = activation.detach()
        kept[name] = clean[0, at]
        factors = alphas.to(device=clean.device, dtype=clean.dtype)[:, None, None]
        leaf = (clean[:, at] * factors).requires_grad_()
        leaves.append(leaf)
        return clean.index_copy(1, at, leaf)

    n_rows = len(alphas)
    tokens = inputs.tokens[row : row + 1].expand(n_rows, -1).clone()
    mask = inputs.attention_mask
    if mask is not None:
        mask = mask[row : row + 1].expand(n_rows, -1)
    first = first_read(of_rows[row] for of_rows in inputs.targets)
    with gradients_on():
        logits = transformer.logits_of(inputs.model, tokens, attention_mask=mask, first=first, hooks=[(name, scale)])
        values = [
            torch.stack([of_rows[row].value(logits[step], first=first) for step in range(n_rows)])
            for of_rows in inputs.targets
        ]
        check_finite_targets(values, kept)
        gradients = [torch.autograd.grad(value.sum(), leaves, retain_graph=True)[0] for value in values]
    clean = wide(kept[name])
    shares = weights.to(device=clean.device, dtype=clean.dtype)[:, None, None]
    return [clean * (wide(gradient) * shares).sum(dim=0) for gradient in gradients]
