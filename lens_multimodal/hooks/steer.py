"""Push activations somewhere: neurons up, down or to a value; a vector into the residual stream.

Steering adds and scaling multiplies, so both keep what the model computed; setting and writing overwrite it.
"""

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentTypeError, ArgumentValueError, public, shown
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.arguments.units import Index, Neurons, read_layer, read_neurons
from lens_multimodal.hooks.editing import Place, edit_at


@public
def steer(
    model: nn.Module, neurons: Neurons, *, amount: float | int, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Add `amount` to the activations of neurons (in units of their activation).

    Raises: TypeError for an amount that is not a number, ValueError for one beyond any float; as `ablate`.
    """
    return _change_neurons(model, neurons, partial(_add, amount=_as_float(amount, "amount")), positions)


@public
def scale(
    model: nn.Module, neurons: Neurons, *, factor: float | int, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Multiply the activations of neurons; 0 is zero ablation, 1 changes nothing. Raises: as `steer`."""
    return _change_neurons(model, neurons, partial(_multiply, factor=_as_float(factor, "factor")), positions)


@public
def set_to(
    model: nn.Module, neurons: Neurons, *, value: float | int, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Fix the activations of neurons at `value`. Raises: as `steer`."""
    return _change_neurons(model, neurons, partial(_fill, value=_as_float(value, "value")), positions)


@public
def add_vector(
    model: nn.Module, vector: Float[Tensor, "*pos d_model"], *, layer: Index, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Add a vector to the residual stream entering a layer (activation steering).

    Args:
        vector: `[d_model]` for the same at every position, or `[pos, d_model]`, one for each listed position.
        layer: 0 is the embedding.
        positions: where; None everywhere, generated tokens included (only with one vector).
    Raises: ValueError for a vector of another width, or if vectors and positions differ in number.
    """
    return _change_residual(model, vector, layer, positions, combine=torch.add)


@public
def write_vector(
    model: nn.Module, vector: Float[Tensor, "*pos d_model"], *, layer: Index, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Overwrite the residual stream entering a layer: an image patch with a mean vector, or with a word's embedding.

    Args and Raises: as in `add_vector`.
    """
    return _change_residual(model, vector, layer, positions, combine=_instead)


def neuron_hook(activation: Tensor, hook: Any, *, place: Place, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Hook function: the activation with `change` applied to some neurons at some positions."""
    return edit_at(activation, place=place, change=change)


def residual_hook(
    activation: Tensor, hook: Any, *, place: Place, vector: Tensor, combine: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Hook function: the residual stream combined with vectors at some positions."""

    def change(resid: Tensor) -> Tensor:
        values = vector.to(resid)
        if values.ndim == 2:
            index, rank = place.within(resid)
            values = torch.zeros_like(resid[0]).index_copy(0, index, values[rank])
        return combine(resid, values)

    return edit_at(activation, place=place, change=change)


def _as_float(number: Any, name: str) -> float:
    if isinstance(number, bool) or not isinstance(number, Real):
        raise ArgumentTypeError(f"expected a number, got {shown(number)}", name)
    try:
        return float(number)
    except OverflowError:
        raise ArgumentValueError("the number is too large for a float; expected one below 1e308", name) from None


def _change_neurons(
    model: nn.Module, neurons: Neurons, change: Callable[[Tensor], Tensor], positions: Positions
) -> list[transformer.NamedHook]:
    where, passes = read_positions(positions), transformer.passes_of(model)
    places = [
        Place(name=transformer.mlp_post(layer), units=units, positions=where, passes=passes)
        for layer, units in read_neurons(model, neurons).items()
    ]
    return [(place.name, partial(neuron_hook, place=place, change=change)) for place in places]


def _change_residual(
    model: nn.Module,
    vector: Tensor,
    layer: Index,
    positions: Positions,
    *,
    combine: Callable[[Tensor, Tensor], Tensor],
) -> list[transformer.NamedHook]:
    place = Place(
        name=transformer.resid_pre(read_layer(model, layer)),
        positions=read_positions(positions),
        passes=transformer.passes_of(model),
    )
    d_model = transformer.shape(model).d_model
    if vector.ndim not in (1, 2) or vector.shape[-1] != d_model:
        raise ArgumentValueError(
            f"expected a vector of shape [{d_model}] or one for each position [pos, {d_model}], "
            f"got {list(vector.shape)}",
            "vector",
        )
    count = place.positions.count
    if vector.ndim == 2 and count != len(vector):
        given = "positions without a fixed number" if count is None else f"{count} positions"
        raise ArgumentValueError(f"{len(vector)} vectors need as many listed positions, got {given}", "vector")
    return [(place.name, partial(residual_hook, place=place, vector=vector, combine=combine))]


def _add(activation: Tensor, *, amount: float) -> Tensor:
    return activation + amount


def _multiply(activation: Tensor, *, factor: float) -> Tensor:
    return activation * factor


def _instead(activation: Tensor, values: Tensor) -> Tensor:
    return values.expand_as(activation)


def _fill(activation: Tensor, *, value: float) -> Tensor:
    return activation.new_full(activation.shape, value)
