"""Layers, neurons and attention heads, checked against a model."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentTypeError, ArgumentValueError, public, read_integer, shown

Index: TypeAlias = int | np.integer | Tensor
"""One layer, neuron or head: a Python, NumPy or torch integer."""

Layers: TypeAlias = Index | Sequence[Any] | np.ndarray | None
"""A layer number, several of them, or None for all."""

Neurons: TypeAlias = pd.DataFrame | Sequence[Any] | Mapping[int, Any] | Tensor | np.ndarray
"""A table with integer columns `layer` and `neuron`, `(layer, neuron)` pairs, or indices by layer."""

Heads: TypeAlias = pd.DataFrame | Sequence[Any] | Mapping[int, Any] | Tensor | np.ndarray
"""A table with integer columns `layer` and `head`, `(layer, head)` pairs, or indices by layer."""


def read_layers(model: nn.Module, layers: Layers, *, name: str = "layers") -> tuple[int, ...]:
    """Layer numbers, ascending; None for all of them.

    Raises: ArgumentValueError for none at all, repeated ones, or layers that the model does not have;
        ArgumentTypeError for anything but integers.
    """
    n_layers = transformer.shape(model).n_layers
    if layers is None:
        return tuple(range(n_layers))
    given = [read_integer(layer, name) for layer in _items(layers)]
    if not given:
        raise ArgumentValueError("no layer given; expected at least one, or None for all", name)
    repeated = sorted(layer for layer, times in Counter(given).items() if times > 1)
    if repeated:
        raise ArgumentValueError(f"layers {repeated[:5]} are given more than once", name)
    _check_inside(given, n_layers, "layer", name)
    return tuple(sorted(given))


def read_layer(model: nn.Module, layer: Index, *, name: str = "layer") -> int:
    """One layer number; errors as in `read_layers`."""
    return read_layers(model, [layer], name=name)[0]


@public
def read_neurons(model: nn.Module, neurons: Neurons, *, name: str = "neurons") -> dict[int, Tensor]:
    """Neuron indices by layer.

    Args: neurons: a table with columns `layer` and `neuron` (further columns are ignored), `(layer, neuron)` pairs, or
        a mapping from layers to indices, such as what this function returned.
    Returns: layer → int64 indices into d_mlp, on the device of that layer's weights; layers ascending, the
        order within a layer as given.
    Raises: ArgumentValueError for no neuron, the same neuron twice, or a layer or neuron that the model does not have;
        ArgumentTypeError for anything but integers.
    """
    return _by_layer(model, neurons, "neuron", transformer.shape(model).d_mlp, name)


def read_neuron_pairs(model: nn.Module, neurons: Neurons, *, name: str = "neurons") -> list[tuple[int, int]]:
    """`(layer, neuron)` pairs in the order given; arguments and errors as in `read_neurons`."""
    return _checked_pairs(model, neurons, "neuron", transformer.shape(model).d_mlp, name)


@public
def read_heads(model: nn.Module, heads: Heads, *, name: str = "heads") -> dict[int, Tensor]:
    """Attention heads by layer: as `read_neurons`, with the column `head`."""
    return _by_layer(model, heads, "head", transformer.shape(model).n_heads, name)


def _by_layer(model: nn.Module, units: Any, kind: str, size: int, name: str) -> dict[int, Tensor]:
    by_layer: dict[int, list[int]] = {}
    for layer, unit in _checked_pairs(model, units, kind, size, name):
        by_layer.setdefault(layer, []).append(unit)
    return {
        layer: torch.tensor(by_layer[layer], dtype=torch.long, device=transformer.w_out(model, layer).device)
        for layer in sorted(by_layer)
    }


def _checked_pairs(model: nn.Module, units: Any, kind: str, size: int, name: str) -> list[tuple[int, int]]:
    pairs = _pairs(units, kind, name)
    if not pairs:
        raise ArgumentValueError(f"no {kind} given; expected at least one (layer, {kind}) pair", name)
    _check_unique(pairs, kind, name)
    _check_inside([layer for layer, _ in pairs], transformer.shape(model).n_layers, "layer", name)
    _check_inside([unit for _, unit in pairs], size, kind, name)
    return pairs


def _pairs(units: Any, kind: str, name: str) -> list[tuple[int, int]]:
    if isinstance(units, pd.DataFrame):
        missing = [column for column in ("layer", kind) if column not in units.columns]
        if missing:
            raise ArgumentValueError(f"the table has columns {list(units.columns)} and lacks {missing}", name)
        columns = units["layer"], units[kind]
        if all(map(_holds_integers, columns)):  # thousands of neurons, thousands of times: one by one takes seconds
            return list(zip(*(column.tolist() for column in columns), strict=True))
        found: Iterable[Any] = zip(*columns, strict=True)
    elif isinstance(units, Mapping):
        found = [(layer, unit) for layer, indices in units.items() for unit in _items(indices)]
    elif isinstance(units, str) or not isinstance(units, Iterable):
        raise ArgumentTypeError(
            f"expected a table with columns layer and {kind}, (layer, {kind}) pairs, or indices by layer; "
            f"got {shown(units)}",
            name,
        )
    else:
        found = units
    return [_pair(item, kind, name) for item in found]


def _holds_integers(column: Any) -> bool:
    """Whether the type of a table's column alone says that every value is an integer."""
    return isinstance(column, pd.Series) and isinstance(column.dtype, np.dtype) and column.dtype.kind in "iu"


def _pair(item: Any, kind: str, name: str) -> tuple[int, int]:
    try:
        layer, unit = item
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"expected (layer, {kind}) pairs of integers, got {item!r} among them", name) from None
    return read_integer(layer, name), read_integer(unit, name)


def _items(values: Any) -> list[Any]:
    """The members of a collection; anything else, including a string, is the only member."""
    if isinstance(values, Tensor | np.ndarray):
        values = values.tolist()
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def _check_unique(pairs: list[tuple[int, int]], kind: str, name: str) -> None:
    twice = [pair for pair, times in Counter(pairs).items() if times > 1]
    if twice:
        listed = ", ".join(f"layer {layer} {kind} {unit}" for layer, unit in twice[:5])
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise ArgumentValueError(
            f"the same {kind} is given more than once: {listed}{more}; "
            f"make a table unique with .drop_duplicates(['layer', '{kind}'])",
            name,
        )


def _check_inside(values: list[int], size: int, kind: str, name: str) -> None:
    outside = sorted({value for value in values if not 0 <= value < size})
    if outside:
        raise ArgumentValueError(
            f"{kind} {', '.join(map(str, outside[:5]))} is outside the model's {size} {kind}s (0 to {size - 1})", name
        )
