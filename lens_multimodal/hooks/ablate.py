"""Ablate parts of a model: neurons, heads, whole sublayers, positions; by zero, mean or resampling.

    with model.hooks(fwd_hooks=ablate(model, neurons, positions=image_positions)):
        caption = model.generate(tokens)

Every builder returns `(hook name, function)` pairs, so interventions are combined by adding lists; hooks at one
hook point run in the order of the list. Activations given are never changed, only copied.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.arguments.units import (
    Heads,
    Index,
    Layers,
    Neurons,
    read_heads,
    read_layer,
    read_layers,
    read_neurons,
)
from lens_multimodal.hooks.editing import Place, edit_at
from lens_multimodal.hooks.replacement import Replacement, Zero

ZERO = Zero()


@public
def ablate(
    model: nn.Module, neurons: Neurons, *, to: Replacement = ZERO, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Replace the activations of MLP neurons (paper section 3.3: by zero, at the image positions).

    Args:
        neurons: a table with columns `layer` and `neuron`, `(layer, neuron)` pairs, or indices by layer.
        to: `Zero()`, `Mean(means)` or `Resample(run)`.
        positions: where; None everywhere, generated tokens included (all forms: `arguments.positions`).
    Raises: ValueError for neurons or positions that do not exist, or values of another model.
    """
    where, passes, width = read_positions(positions), transformer.passes_of(model), (transformer.shape(model).d_mlp,)
    places = [
        Place(name=transformer.mlp_post(layer), units=units, positions=where, passes=passes)
        for layer, units in read_neurons(model, neurons).items()
    ]
    return _replaced(places, width, to)


@public
def ablate_heads(
    model: nn.Module, heads: Heads, *, to: Replacement = ZERO, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Replace the outputs of attention heads, before the output projection; settings as in `ablate`."""
    where, passes, sizes = read_positions(positions), transformer.passes_of(model), transformer.shape(model)
    places = [
        Place(name=transformer.head_z(layer), units=units, axis=-2, positions=where, passes=passes)
        for layer, units in read_heads(model, heads).items()
    ]
    return _replaced(places, (sizes.n_heads, sizes.d_head), to)


@public
def ablate_mlp(
    model: nn.Module, layers: Layers, *, to: Replacement = ZERO, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Replace everything that the MLPs of some layers add to the residual stream, biases included."""
    return replace_sites(model, transformer.mlp_out, layers, to=to, positions=positions)


@public
def ablate_attention(
    model: nn.Module, layers: Layers, *, to: Replacement = ZERO, positions: Positions = None
) -> list[transformer.NamedHook]:
    """Replace everything that the attention of some layers adds to the residual stream, biases included."""
    return replace_sites(model, transformer.attn_out, layers, to=to, positions=positions)


@public
def ablate_positions(
    model: nn.Module, positions: Positions, *, to: Replacement = ZERO, layer: Index = 0
) -> list[transformer.NamedHook]:
    """Replace the residual stream entering a layer at some positions, such as the image patches of an object.

    At layer 0 this is the token embedding, plus the position embedding where a model adds one (GPT-2, OPT).
    In later layers other positions already hold some of the information; only what these positions hold is replaced.
    """
    return replace_sites(model, transformer.resid_pre, read_layer(model, layer), to=to, positions=positions)


def replace_sites(
    model: nn.Module, site: Callable[[int], str], layers: Layers, *, to: Replacement, positions: Positions
) -> list[transformer.NamedHook]:
    """Replace whole activations of width d_model at one site of some layers, such as `transformer.mlp_out`."""
    where, passes = read_positions(positions), transformer.passes_of(model)
    places = [Place(name=site(layer), positions=where, passes=passes) for layer in read_layers(model, layers)]
    return _replaced(places, (transformer.shape(model).d_model,), to)


def replace_hook(activation: Tensor, hook: Any, *, place: Place, to: Replacement) -> Tensor:
    """Hook function: the activation with some units replaced at some positions."""
    return edit_at(activation, place=place, change=partial(to.values, place=place))


def _replaced(places: Iterable[Place], width: tuple[int, ...], to: Replacement) -> list[transformer.NamedHook]:
    """One hook for each place; `width` is the activation's shape without batch and position."""
    to.check({place.name: width for place in places})
    return [(place.name, partial(replace_hook, place=place, to=to)) for place in places]
