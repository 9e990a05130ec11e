"""Scores that need no backward pass through the model: activation times what the neuron writes towards the target.

A neuron adds `activation * W_out[k]` to the residual stream at its own position. Unembedded, that vector says how
much the neuron raises the target's token:

- `ActivationXDecoded`: `activation * (W_out[k] @ W_U)[token]`, no norm in between; the gradient-free score of the
  follow-up work (paper notes, section 5).
- `LocalDirectEffect`: direct logit attribution at the neuron's own position: the same through the final norm with its
  actual scale there, which is what the neuron adds to the token's logit in the logit lens.
- `DirectEffect`: direct logit attribution to the *target itself*, along the residual stream alone. It is exactly zero
  except at positions that the target reads, since a neuron reaches later positions only through attention; image
  positions therefore have none. Summed over everything that writes to the residual stream it gives the logit.

Any target works, not only a logit: its gradient with respect to the logits weights the tokens. Blocks must add the
MLP's output to the residual stream unchanged (not through a further norm, as Gemma 2 does).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.attribution_inputs import AttributionInputs, Receive
from lens_multimodal.analysis.attribution.graph import check_finite_targets, gradients_on
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True)
class ActivationXDecoded:
    """Activation times the decoded weight on the target, without gradient or norm."""

    def __call__(self, inputs: AttributionInputs, receive: Receive) -> None:
        activations, directions, _ = _forward(inputs)
        for index, direction in enumerate(directions):
            own = direction.sum(dim=1, keepdim=True)
            _hand_over(inputs, index, activations, own, receive)


@dataclass(frozen=True, kw_only=True)
class LocalDirectEffect:
    """Direct logit attribution at the neuron's own position, through the final norm."""

    def __call__(self, inputs: AttributionInputs, receive: Receive) -> None:
        activations, directions, scale = _forward(inputs)
        for index, direction in enumerate(directions):
            own = _through_final_norm(inputs, direction.sum(dim=1, keepdim=True))
            _hand_over(inputs, index, activations, own, receive, factor=1 / scale)


@dataclass(frozen=True, kw_only=True)
class DirectEffect:
    """Direct logit attribution to the target: zero at positions that the target does not read."""

    def __call__(self, inputs: AttributionInputs, receive: Receive) -> None:
        _check_reached(inputs)
        activations, directions, scale = _forward(inputs)
        for index, direction in enumerate(directions):
            at = inputs.positions.to(direction.device)
            through = _through_final_norm(inputs, direction[:, at])
            _hand_over(inputs, index, activations, through, receive, factor=1 / scale)


def _forward(
    inputs: AttributionInputs,
) -> tuple[dict[int, Tensor], list[Float[Tensor, "batch prompt_pos d_model"]], Float[Tensor, "batch pos 1"]]:
    """Activations and final norm scale at the given positions; for each target its direction everywhere."""
    at = inputs.positions
    names = [*(transformer.mlp_post(layer) for layer in inputs.layers), transformer.FINAL_NORM_SCALE]
    with torch.no_grad(), transformer.capture(inputs.model, names) as kept:
        logits = transformer.logits_of(inputs.model, inputs.tokens, attention_mask=inputs.attention_mask)
    directions = [_direction(inputs, index, logits, kept) for index in range(len(inputs.targets))]
    activations = {
        layer: wide(kept[transformer.mlp_post(layer)][:, at.to(kept[transformer.mlp_post(layer)].device)])
        for layer in inputs.layers
    }
    scale = kept[transformer.FINAL_NORM_SCALE]
    return activations, directions, wide(scale[:, at.to(scale.device)])


def _direction(
    inputs: AttributionInputs, index: int, logits: Tensor, kept: dict[str, Tensor]
) -> Float[Tensor, "batch prompt_pos d_model"]:
    """The target's gradient with respect to the final norm's output: `W_U` times its gradient by the logits."""
    with gradients_on():
        leaf = logits.detach().clone().requires_grad_()
        value = torch.stack([t.value(leaf[row]) for row, t in enumerate(inputs.targets[index])])
        check_finite_targets([value], kept)
        (weight,) = torch.autograd.grad(value.sum(), [leaf])
    w_u = transformer.w_u(inputs.model).detach()
    weight = weight.to(w_u.device)
    used = weight.any(dim=-1)
    direction = torch.zeros(*weight.shape[:2], w_u.shape[0], device=w_u.device, dtype=wide(w_u[:1, :1]).dtype)
    direction[used] = wide(weight[used] @ w_u.T)
    return direction


def _through_final_norm(
    inputs: AttributionInputs, direction: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """Carry a direction back through the final norm, except for the division by the scale."""
    direction = direction * wide(transformer.final_norm_weight(inputs.model).detach()).to(direction.device)
    if transformer.facts(inputs.model).norms_centre:
        direction = direction - direction.mean(dim=-1, keepdim=True)
    return direction


def _hand_over(
    inputs: AttributionInputs,
    index: int,
    activations: dict[int, Tensor],
    direction: Float[Tensor, "batch pos_or_1 d_model"],
    receive: Receive,
    *,
    factor: Float[Tensor, "batch pos 1"] | None = None,
) -> None:
    for layer in inputs.layers:
        weight = wide(transformer.w_out(inputs.model, layer).detach())
        written = direction.to(weight.device) @ weight.T
        if factor is not None:
            written = written * factor.to(weight.device)
        receive(index, layer, activations[layer] * written)


def _check_reached(inputs: AttributionInputs) -> None:
    wanted = set(inputs.positions.tolist())
    read = [target.pos for of_rows in inputs.targets for target in of_rows]
    if None not in read and not wanted & set(read):
        raise ValueError(
            f"none of the given positions is read by the target (it reads {sorted(set(read), key=str)}), so all "
            f"direct effects are zero; 'local_direct_effect' or 'activation_x_decoded' unembed a neuron at its "
            f"own position, and 'activation_x_gradient' follows it through attention"
        )
