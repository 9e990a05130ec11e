"""Push activations somewhere: neurons up, down or to a value; a vector into the residual stream.

Steering adds and scaling multiplies, so both keep what the model computed; setting and writing overwrite it.
"""

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.neurons import Neurons, as_layers, as_neurons
from lens_multimodal.arguments.positions import Positions, PositionSet, as_positions, edit_at


def steer(
    model: nn.Module, neurons: Neurons, *, amount: float | int, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Add `amount` to the activations of neurons (in units of their activation).

    Raises: TypeError for an amount that is no number, ValueError for one beyond any float; as `as_neurons`.
    """
    return _change_neurons(model, neurons, partial(_add, amount=_as_float(amount, "amount")), positions)


def scale(
    model: nn.Module, neurons: Neurons, *, factor: float | int, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Multiply the activations of neurons; 0 is zero ablation, 1 changes nothing. Raises: as `steer`."""
    return _change_neurons(model, neurons, partial(_multiply, factor=_as_float(factor, "factor")), positions)


def set_to(
    model: nn.Module, neurons: Neurons, *, value: float | int, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Fix the activations of neurons at `value`. Raises: as `steer`."""
    return _change_neurons(model, neurons, partial(_fill, value=_as_float(value, "value")), positions)


def add_vector(
    model: nn.Module, vector: Float[Tensor, "*pos d_model"], *, layer: int, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Add a vector to the residual stream entering a layer (activation steering).

    Args:
        vector: `[d_model]` for the same at every position, or `[pos, d_model]`, one for each listed position.
        layer: 0 is the embedding.
        positions: where; None everywhere, generated tokens included (only with one vector).
    Raises: ValueError for a vector of another width, or as many vectors as there are not positions.
    """
    return _residual(model, vector, layer, positions, adding=True)


def write_vector(
    model: nn.Module, vector: Float[Tensor, "*pos d_model"], *, layer: int, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Put a vector in place of the residual stream entering a layer: an image patch by a mean, another by a word.

    Args and Raises: as in `add_vector`.
    """
    return _residual(model, vector, layer, positions, adding=False)


def neuron_hook(
    activation: Tensor,
    hook: Any,
    *,
    units: Tensor,
    change: Callable[[Tensor], Tensor],
    positions: PositionSet,
) -> Tensor:
    """Hook function: the activation with `change` applied to some neurons at some positions."""
    return edit_at(activation, positions=positions, change=change, units=units)


def residual_hook(
    activation: Tensor,
    hook: Any,
    *,
    vector: Tensor,
    adding: bool,
    positions: PositionSet,
) -> Tensor:
    """Hook function: the residual stream with vectors added or written at some positions."""

    def change(resid: Tensor) -> Tensor:
        values = vector.to(resid)
        if values.ndim == 1:
            return resid + values if adding else values.expand_as(resid)
        index = positions.index(resid.shape[1], device=resid.device)
        if adding:
            return resid.index_add(1, index, values.expand(len(resid), -1, -1))
        return resid.index_copy(1, index, values.expand(len(resid), -1, -1))

    return edit_at(activation, positions=positions, change=change)


def _as_float(number: Any, name: str) -> float:
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{name} must be a number, got {number!r} ({type(number).__name__})")
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{name} is a number too large for any float; expected one below 1e308") from None


def _change_neurons(
    model: nn.Module, neurons: Neurons, change: Callable[[Tensor], Tensor], positions: Positions
) -> list[transformer.NamedHook]:
    where = as_positions(positions)
    return [
        (transformer.mlp_post(layer), partial(neuron_hook, units=units, change=change, positions=where))
        for layer, units in as_neurons(model, neurons).items()
    ]


def _residual(
    model: nn.Module, vector: Tensor, layer: int, positions: Positions, *, adding: bool
) -> list[transformer.NamedHook]:
    where = as_positions(positions)
    [layer] = as_layers(model, layer)
    d_model = transformer.shape(model).d_model
    if vector.ndim not in (1, 2) or vector.shape[-1] != d_model:
        raise ValueError(
            f"expected a vector of shape [{d_model}] or one for each position [pos, {d_model}], "
            f"got {list(vector.shape)}"
        )
    if vector.ndim == 2 and (where.listed is None or len(where.listed) != len(vector)):
        given = "positions without an end" if where.listed is None else f"{len(where.listed)} positions"
        raise ValueError(f"{len(vector)} vectors need as many listed positions, got {given}")
    return [(transformer.resid_pre(layer), partial(residual_hook, vector=vector, adding=adding, positions=where))]


def _add(activation: Tensor, *, amount: float) -> Tensor:
    return activation + amount


def _multiply(activation: Tensor, *, factor: float) -> Tensor:
    return activation * factor


def _fill(activation: Tensor, *, value: float) -> Tensor:
    return activation.new_full(activation.shape, value)
