"""Scores that need no backward pass through the model: activation times what the neuron writes about the target.

A neuron adds `activation * W_out[k]` to the residual stream at its own position. Read through the unembedding,
that vector says how much the neuron speaks for the target's token:

- `ActivationXDecoded`: `activation * (W_out[k] @ W_U)[token]`, no norm in between; the gradient-free score of the
  follow-up work (paper notes, section 5).
- `LocalDirectEffect`: the same through the final norm with its actual scale at the neuron's own position: what the
  neuron adds to the token's logit if the model is read out there (logit lens).
- `DirectEffect`: what the neuron adds to the *target itself* along the residual stream alone. Only positions that
  the target reads have any; at all others, image positions included, it is exactly zero, since a neuron reaches
  later positions only through attention. Summed over everything that writes to the residual stream it gives the
  logit.

Any target works, not only a logit: its gradient with respect to the logits says how it weighs the tokens. Blocks
must add the MLP's output to the residual stream as it is (not through a further norm, as Gemma 2 does).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.gradients import check_finite_targets, gradients_on
from lens_multimodal.analysis.attribution.request import Request, Visit
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True)
class ActivationXDecoded:
    """Activation times the decoded weight on the target: gradient-free, no norm."""

    def __call__(self, request: Request, visit: Visit) -> None:
        activations, directions, _ = _forward(request)
        for index, direction in enumerate(directions):
            own = direction.sum(dim=1, keepdim=True)
            _visit_products(request, index, activations, own, visit)


@dataclass(frozen=True, kw_only=True)
class LocalDirectEffect:
    """Activation times the weight on the target, read through the final norm at the neuron's own position."""

    def __call__(self, request: Request, visit: Visit) -> None:
        activations, directions, scale = _forward(request)
        for index, direction in enumerate(directions):
            own = _through_final_norm(request, direction.sum(dim=1, keepdim=True))
            _visit_products(request, index, activations, own, visit, factor=1 / scale)


@dataclass(frozen=True, kw_only=True)
class DirectEffect:
    """What a neuron adds to the target along the residual stream alone: zero where the target is not read."""

    def __call__(self, request: Request, visit: Visit) -> None:
        _check_reached(request)
        activations, directions, scale = _forward(request)
        for index, direction in enumerate(directions):
            at = request.positions.to(direction.device)
            through = _through_final_norm(request, direction[:, at])
            _visit_products(request, index, activations, through, visit, factor=1 / scale)


def _forward(
    request: Request,
) -> tuple[dict[int, Tensor], list[Float[Tensor, "batch prompt_pos d_model"]], Float[Tensor, "batch pos 1"]]:
    """Activations and final norm scale at the requested positions; per pass, the target's direction everywhere."""
    at = request.positions
    names = [*(transformer.mlp_post(layer) for layer in request.layers), transformer.FINAL_NORM_SCALE]
    with torch.no_grad(), transformer.capture(request.model, names) as kept:
        logits = transformer.logits_of(request.model, request.tokens, attention_mask=request.attention_mask)
    directions = [_direction(request, index, logits, kept) for index in range(len(request.passes))]
    activations = {
        layer: wide(kept[transformer.mlp_post(layer)][:, at.to(kept[transformer.mlp_post(layer)].device)])
        for layer in request.layers
    }
    scale = kept[transformer.FINAL_NORM_SCALE]
    return activations, directions, wide(scale[:, at.to(scale.device)])


def _direction(
    request: Request, index: int, logits: Tensor, kept: dict[str, Tensor]
) -> Float[Tensor, "batch prompt_pos d_model"]:
    """The target's gradient with respect to the final norm's output: `W_U` weighed by its gradient by logits."""
    with gradients_on():
        leaf = logits.detach().clone().requires_grad_()
        value = torch.stack([t.value(leaf[row]) for row, t in enumerate(request.passes[index])])
        check_finite_targets([value], dict(enumerate(kept.values())))
        (weight,) = torch.autograd.grad(value.sum(), [leaf])
    w_u = transformer.w_u(request.model).detach()
    weight = weight.to(w_u.device)
    used = weight.any(dim=-1)
    direction = torch.zeros(*weight.shape[:2], w_u.shape[0], device=w_u.device, dtype=wide(w_u[:1, :1]).dtype)
    direction[used] = wide(weight[used] @ w_u.T)
    return direction


def _through_final_norm(
    request: Request, direction: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """Move a direction from behind the final norm to before it, but for the division by the scale."""
    direction = direction * wide(transformer.final_norm_weight(request.model).detach()).to(direction.device)
    if transformer.facts(request.model).norms_centre:
        direction = direction - direction.mean(dim=-1, keepdim=True)
    return direction


def _visit_products(
    request: Request,
    index: int,
    activations: dict[int, Tensor],
    direction: Float[Tensor, "batch pos_or_1 d_model"],
    visit: Visit,
    *,
    factor: Float[Tensor, "batch pos 1"] | None = None,
) -> None:
    for layer in request.layers:
        weight = wide(transformer.w_out(request.model, layer).detach())
        written = direction.to(weight.device) @ weight.T
        if factor is not None:
            written = written * factor.to(weight.device)
        visit(index, layer, activations[layer] * written)


def _check_reached(request: Request) -> None:
    wanted = set(request.positions.tolist())
    read = [target.pos for targets in request.passes for target in targets]
    if None not in read and not wanted & set(read):
        raise ValueError(
            f"none of the given positions is read by the target (it reads {sorted(set(read), key=str)}), so all "
            f"direct effects are zero; 'local_direct_effect' or 'activation_x_decoded' read a neuron out at its "
            f"own position, and 'activation_x_gradient' follows it through attention"
        )
