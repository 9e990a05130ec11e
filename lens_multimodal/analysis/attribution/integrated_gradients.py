"""Integrated gradients of a layer's neurons, from silence to what they do.

For one layer, its neurons at the requested positions are scaled together, `alpha * A` with alpha from 0 to 1,
while everything before them stays and everything after them follows:

    attribution[k, p] = A[k, p] * integral over alpha of (d target / d A[k, p] at alpha * A)

Completeness: summed over the layer's neurons and the positions, that is `target - target with all of them zero`, so
each layer by itself accounts for its own joint ablation. Layers are not summed: they act through each other.
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
from lens_multimodal.analysis.attribution.gradients import check_differentiable, check_finite_targets, gradients_on
from lens_multimodal.analysis.attribution.request import Request, Visit
from lens_multimodal.arguments.targets import first_read
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    """Activation times the mean gradient on the way from zero; costs `steps` forward and backward rows a layer."""

    steps: int = 8
    batch_size: int = 8
    """Rows of one forward pass; memory grows with it."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be positive, got {self.steps} and {self.batch_size}")

    def __call__(self, request: Request, visit: Visit) -> None:
        check_differentiable(request.model)
        nodes, shares = np.polynomial.legendre.leggauss(self.steps)
        alphas, weights = torch.tensor((nodes + 1) / 2), torch.tensor(shares / 2)
        for layer in request.layers:
            by_row = [self._layer(request, layer, row, alphas, weights) for row in range(len(request.tokens))]
            for index in range(len(request.passes)):
                visit(index, layer, torch.stack([scores[index] for scores in by_row]))

    def _layer(
        self, request: Request, layer: int, row: int, alphas: Tensor, weights: Tensor
    ) -> list[Float[Tensor, "pos d_mlp"]]:
        """Scores of one layer and prompt for each pass."""
        totals: list[Tensor] = []
        for start in range(0, self.steps, self.batch_size):
            chunk = slice(start, start + self.batch_size)
            for index, part in enumerate(_weighted(request, layer, row, alphas[chunk], weights[chunk])):
                if index == len(totals):
                    totals.append(part)
                else:
                    totals[index] += part
        return totals


def _weighted(
    request: Request, layer: int, row: int, alphas: Tensor, weights: Tensor
) -> list[Float[Tensor, "pos d_mlp"]]:
    """Activation times the weighted sum of its gradients at some points of the way, for each pass."""
    kept: dict[int, Tensor] = {}
    leaves: list[Tensor] = []

    def scale(activation: Tensor, hook: Any) -> Tensor:
        at = request.positions.to(activation.device)
        clean = activation.detach()
        kept[layer] = clean[0, at]
        factors = alphas.to(device=clean.device, dtype=clean.dtype)[:, None, None]
        leaf = (clean[:, at] * factors).requires_grad_()
        leaves.append(leaf)
        return clean.index_copy(1, at, leaf)

    n_rows = len(alphas)
    tokens = request.tokens[row : row + 1].expand(n_rows, -1).clone()
    mask = request.attention_mask
    if mask is not None:
        mask = mask[row : row + 1].expand(n_rows, -1)
    first = first_read(targets[row] for targets in request.passes)
    with gradients_on():
        with transformer.fired_hooks(request.model, [(transformer.mlp_post(layer), scale)]):
            logits = transformer.logits_of(request.model, tokens, attention_mask=mask, first=first)
        values = [
            torch.stack([targets[row].value(logits[step], first=first) for step in range(n_rows)])
            for targets in request.passes
        ]
        check_finite_targets(values, kept)
        gradients = [torch.autograd.grad(value.sum(), leaves, retain_graph=True)[0] for value in values]
    clean = wide(kept[layer])
    shares = weights.to(device=clean.device, dtype=clean.dtype)[:, None, None]
    return [clean * (wide(gradient) * shares).sum(dim=0) for gradient in gradients]
