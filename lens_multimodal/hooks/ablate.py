"""Take parts of a model away: neurons, heads, whole sublayers, positions; by zero, mean or resampling.

    with model.hooks(fwd_hooks=ablate(model, neurons, positions=image_positions)):
        caption = model.generate(tokens)

Every builder returns `(hook name, function)` pairs, so interventions are combined by adding lists; hooks at one
place run in the order of the list. Activations given are never changed, only copied.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.arguments.units import Heads, Neurons, read_heads, read_layers, read_neurons
from lens_multimodal.hooks.editing import Place, edit_at
from lens_multimodal.hooks.replacement import Replacement, Zero

ZERO = Zero()


def ablate(
    model: nn.Module,
    neurons: Neurons,
    *,
    to: Replacement = ZERO,
    positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Replace the activations of MLP neurons (paper section 3.3: zero, at the image positions).

    Args:
        neurons: a table with columns `layer` and `neuron`, or pairs.
        to: `Zero()`, `Mean(means)` or `Resample(run)`.
        positions: where; None everywhere, generated tokens included (see `hooks.positions`).
    Raises: ValueError for neurons or positions that do not exist, or values of another model.
    """
    chosen = read_neurons(model, neurons)
    by_name = {transformer.mlp_post(layer): indices for layer, indices in chosen.items()}
    return replace_units(by_name, to=to, width=(transformer.shape(model).d_mlp,), axis=-1, positions=positions)


def ablate_heads(
    model: nn.Module,
    heads: Heads,
    *,
    to: Replacement = ZERO,
    positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Replace the outputs of attention heads, before the output projection; settings as in `ablate`."""
    sizes = transformer.shape(model)
    by_name = {transformer.head_z(layer): indices for layer, indices in read_heads(model, heads).items()}
    return replace_units(by_name, to=to, width=(sizes.n_heads, sizes.d_head), axis=-2, positions=positions)


def ablate_mlp(
    model: nn.Module,
    layers: int | Sequence[int],
    *,
    to: Replacement = ZERO,
    positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Replace all that the MLPs of some layers add to the residual stream, biases included."""
    names = [transformer.mlp_out(layer) for layer in read_layers(model, layers)]
    return replace_sites(model, names, to=to, positions=positions)


def ablate_attention(
    model: nn.Module,
    layers: int | Sequence[int],
    *,
    to: Replacement = ZERO,
    positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Replace all that the attention of some layers adds to the residual stream, biases included."""
    names = [transformer.attn_out(layer) for layer in read_layers(model, layers)]
    return replace_sites(model, names, to=to, positions=positions)


def ablate_positions(
    model: nn.Module,
    positions: Positions,
    *,
    to: Replacement = ZERO,
    layer: int = 0,
) -> list[transformer.NamedHook]:
    """Replace the residual stream entering a layer at some positions, such as the image patches of an object.

    At layer 0 this is the token embedding, plus the position embedding where a model adds one (GPT-2, OPT).
    Later layers have already moved information elsewhere: what is replaced there is what is left at the positions.
    """
    [layer] = read_layers(model, layer)
    return replace_sites(model, [transformer.resid_pre(layer)], to=to, positions=positions)


def replace_sites(
    model: nn.Module, names: Sequence[str], *, to: Replacement, positions: Positions
) -> list[transformer.NamedHook]:
    """Replace whole activations of width d_model at any hook points."""
    width = (transformer.shape(model).d_model,)
    return replace_units(dict.fromkeys(names), to=to, width=width, axis=-1, positions=positions)


def replace_units(
    units: Mapping[str, Tensor | None],
    *,
    to: Replacement,
    width: tuple[int, ...],
    axis: int,
    positions: Positions,
) -> list[transformer.NamedHook]:
    """Replace chosen units (None: all) at each hook name; `width` is the activation without batch and position."""
    where = read_positions(positions)
    to.check(dict.fromkeys(units, width))
    places = [Place(name=name, units=index, axis=axis, positions=where) for name, index in units.items()]
    return [(place.name, partial(replace_hook, place=place, to=to)) for place in places]


def replace_hook(activation: Tensor, hook: Any, *, place: Place, to: Replacement) -> Tensor:
    """Hook function: the activation with some units replaced at some positions."""
    return edit_at(activation, place=place, change=partial(to.values, place=place))
