"""Scores that need no backward pass through the model: activation times what the neuron writes towards the target.

A neuron adds `activation * written[k]` to the residual stream at its own position: its row of `W_out`, through the norm
after the MLP where there is one, with that norm's actual scale (`transformer.written`). Unembedded, that vector says
how much the neuron raises the target's token:

- `ActivationXDecoded`: `activation * (written[k] @ W_U)[token]`, without the final norm; the gradient-free score of the
  follow-up work (paper notes, section 5).
- `LocalDirectEffect`: direct logit attribution at the neuron's own position: the same through the final norm with its
  actual scale there, which is what the neuron adds to the token's logit in the logit lens.
- `DirectEffect`: direct logit attribution to the *target itself*, along the residual stream alone. It is exactly zero
  except at positions that the target reads, since a neuron reaches later positions only through attention; image
  positions therefore have none. Summed over everything that writes to the residual stream it gives the logit.

Any target works, not only a logit: its gradient with respect to the logits weights the tokens. Where the model caps its
logits (Gemma 2), the cap's slope at the actual logits counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.attribution_inputs import AttributionInputs, Receive
from lens_multimodal.analysis.attribution.autograd_graph import check_finite_targets, gradients_on
from lens_multimodal.arguments.targets import first_read
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True)
class ActivationXDecoded:
    """Activation times the decoded weight on the target, without gradient or final norm."""

    def __call__(self, inputs: AttributionInputs, receive: Receive) -> None:
        run = _forward(inputs)
        _hand_over(inputs, run, [direction.sum(dim=1, keepdim=True) for direction in run.directions], receive)


@dataclass(frozen=True, kw_only=True)
class LocalDirectEffect:
    """Direct logit attribution at the neuron's own position, through the final norm."""

    def __call__(self, inputs: AttributionInputs, receive: Receive) -> None:
        run, norm = _forward(inputs), transformer.final_norm(inputs.model)
        own = [direction.sum(dim=1, keepdim=True) for direction in run.directions]
        _hand_over(inputs, run, [norm.carry_back(direction) / run.final_scale for direction in own], receive)


@dataclass(frozen=True, kw_only=True)
class DirectEffect:
    """Direct logit attribution to the target: zero at positions that the target does not read."""

    def __call__(self, inputs: AttributionInputs, receive: Receive) -> None:
        _check_reached(inputs)
        run, norm = _forward(inputs), transformer.final_norm(inputs.model)
        there = [direction[:, inputs.positions.to(direction.device)] for direction in run.directions]
        _hand_over(inputs, run, [norm.carry_back(direction) / run.final_scale for direction in there], receive)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """What one forward pass gives, at the positions asked for."""

    activations: dict[int, Float[Tensor, "batch pos d_mlp"]]
    """By layer; divided by the scale of the norm after the MLP where there is one."""
    final_scale: Float[Tensor, "batch pos 1"]
    directions: list[Float[Tensor, "batch prompt_pos d_model"]]
    """For each target, its gradient with respect to the final norm's output, at all positions of the prompt."""


def _forward(inputs: AttributionInputs) -> _Run:
    model = inputs.model
    first = first_read(target for of_rows in inputs.targets for target in of_rows)
    scales = {layer: transformer.written_scale(model, layer) for layer in inputs.layers}
    names = [
        *(transformer.mlp_post(layer) for layer in inputs.layers),
        *(name for name in scales.values() if name is not None),
        transformer.FINAL_NORM_SCALE,
    ]
    kept: dict[str, Tensor] = {}
    with torch.no_grad():
        logits = transformer.logits_of(
            model,
            inputs.tokens,
            attention_mask=inputs.attention_mask,
            first=first,
            hooks=transformer.keep(names, into=kept),
        )
    directions = [_direction(inputs, index, logits, first, kept) for index in range(len(inputs.targets))]

    def at_positions(name: str) -> Tensor:
        return wide(kept[name][:, inputs.positions.to(kept[name].device)])

    activations = {layer: at_positions(transformer.mlp_post(layer)) for layer in inputs.layers}
    for layer, name in scales.items():
        if name is not None:
            activations[layer] = activations[layer] / at_positions(name).to(activations[layer].device)
    final_scale = at_positions(transformer.FINAL_NORM_SCALE)
    return _Run(activations=activations, final_scale=final_scale, directions=directions)


def _direction(
    inputs: AttributionInputs, index: int, logits: Tensor, first: int, kept: dict[str, Tensor]
) -> Float[Tensor, "batch prompt_pos d_model"]:
    """The target's gradient with respect to the final norm's output; `logits` begin at position `first`."""
    with gradients_on():
        leaf = logits.detach().clone().requires_grad_()
        value = torch.stack([t.value(leaf[row], first=first) for row, t in enumerate(inputs.targets[index])])
        check_finite_targets([value], kept)
        (weight,) = torch.autograd.grad(value.sum(), [leaf])
    used = weight.any(dim=-1)
    found = transformer.unembed_back(inputs.model, logits[used], weight[used])
    direction = found.new_zeros(*inputs.tokens.shape, found.shape[-1])
    direction[:, first:][used.to(found.device)] = found
    return direction


def _hand_over(
    inputs: AttributionInputs,
    run: _Run,
    directions: Sequence[Float[Tensor, "batch pos_or_1 d_model"]],
    receive: Receive,
) -> None:
    """Activation times what each neuron writes along the direction of each target."""
    for layer in inputs.layers:
        rows = wide(transformer.written(inputs.model, layer))
        for index, direction in enumerate(directions):
            receive(index, layer, run.activations[layer] * (direction.to(rows.device) @ rows.T))


def _check_reached(inputs: AttributionInputs) -> None:
    wanted = set(inputs.positions.tolist())
    read = [target.pos for of_rows in inputs.targets for target in of_rows]
    if None not in read and not wanted & set(read):
        raise ValueError(
            f"none of the given positions is read by the target (it reads {sorted(set(read), key=str)}), so all "
            f"direct effects are zero; 'local_direct_effect' or 'activation_x_decoded' unembed a neuron at its "
            f"own position, and 'activation_x_gradient' follows it through attention"
        )
