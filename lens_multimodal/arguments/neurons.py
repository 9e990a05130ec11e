"""Which neurons and heads: one normaliser for every function that takes some, and random ones to compare with."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd
import torch
from torch import Tensor, nn

from lens_multimodal import transformer

Neurons: TypeAlias = pd.DataFrame | Sequence[Any] | Mapping[int, Any]
"""A table with integer columns `layer` and `neuron`, `(layer, neuron)` pairs, or indices by layer."""

Heads: TypeAlias = pd.DataFrame | Sequence[Any] | Mapping[int, Any]
"""A table with integer columns `layer` and `head`, `(layer, head)` pairs, or indices by layer."""


def as_neurons(model: nn.Module, neurons: Neurons) -> dict[int, Tensor]:
    """Neuron indices by layer, checked against the model.

    Args:
        neurons: a DataFrame with columns `layer` and `neuron` (further columns are ignored), a sequence of
            `(layer, neuron)` pairs, or what this function returned.
        model: any TransformerLens model; gives the limits.
    Returns: layer → int64 indices into d_mlp, on the device of that layer's weights; layers ascending, the
        order within a layer as given.
    Raises:
        TypeError: something that is not a collection of pairs of integers.
        ValueError: no neuron at all, the same neuron twice, a layer or neuron that the model does not have.
    """
    return _by_layer(model, neurons, "neuron", transformer.shape(model).d_mlp)


def as_heads(model: nn.Module, heads: Heads) -> dict[int, Tensor]:
    """Attention heads by layer, checked against the model: `as_neurons` for heads (column `head`)."""
    return _by_layer(model, heads, "head", transformer.shape(model).n_heads)


def as_layers(model: nn.Module, layers: int | Sequence[int] | None) -> list[int]:
    """Layer numbers, ascending; None for all of them.

    Raises: ValueError for none at all, repeated ones, or layers that the model does not have; TypeError for anything
        else than whole numbers.
    """
    n_layers = transformer.shape(model).n_layers
    if layers is None:
        return list(range(n_layers))
    given = [_integer(layer) for layer in (layers if isinstance(layers, Iterable) else [layers])]
    if not given:
        raise ValueError("no layers given: expected at least one, or None for all")
    if len(set(given)) < len(given):
        twice = sorted(x for x, n in Counter(given).items() if n > 1)
        raise ValueError(f"layers given more than once: {twice}; {given} are not all different")
    _check_inside(given, n_layers, "layer")
    return sorted(given)


def random_neurons_like(model: nn.Module, neurons: Neurons, generator: torch.Generator) -> pd.DataFrame:
    """As many random neurons in each layer as were given, none of the given: the matched control.

    The paper compares every ablation with random neurons of the same layers (section 3.3).

    Args: generator: a CPU generator; its state decides the draw.
    Returns: a table with columns `layer` and `neuron`.
    Raises: ValueError if a layer has too few other neurons to draw from; and as `as_neurons`.
    """
    d_mlp = transformer.shape(model).d_mlp
    rows: list[tuple[int, int]] = []
    for layer, given in as_neurons(model, neurons).items():
        others = torch.ones(d_mlp, dtype=torch.bool)
        others[given.cpu()] = False
        candidates = others.nonzero().flatten()
        if len(candidates) < len(given):
            raise ValueError(
                f"layer {layer}: {len(given)} of {d_mlp} neurons are given, which leaves only "
                f"{len(candidates)} to draw a control from; give at most half of a layer's neurons"
            )
        drawn = candidates[torch.randperm(len(candidates), generator=generator)[: len(given)]]
        rows.extend((layer, int(neuron)) for neuron in drawn)
    return pd.DataFrame(rows, columns=["layer", "neuron"])


def _by_layer(model: nn.Module, units: Any, kind: str, size: int) -> dict[int, Tensor]:
    pairs = _pairs(units, kind)
    if not pairs:
        raise ValueError(f"no {kind}s given: expected at least one (layer, {kind}) pair")
    _check_unique(pairs, kind)
    _check_inside([layer for layer, _ in pairs], transformer.shape(model).n_layers, "layer")
    _check_inside([unit for _, unit in pairs], size, kind)
    by_layer: dict[int, list[int]] = {}
    for layer, unit in pairs:
        by_layer.setdefault(layer, []).append(unit)
    return {
        layer: torch.tensor(by_layer[layer], dtype=torch.long, device=transformer.w_out(model, layer).device)
        for layer in sorted(by_layer)
    }


def _pairs(units: Any, kind: str) -> list[tuple[int, int]]:
    if isinstance(units, pd.DataFrame):
        missing = [column for column in ("layer", kind) if column not in units.columns]
        if missing:
            raise ValueError(
                f"the table of {kind}s has no column {' and no column '.join(map(repr, missing))}; "
                f"its columns are {', '.join(map(str, units.columns)) or 'none'}"
            )
        return [(_integer(layer), _integer(unit)) for layer, unit in zip(units["layer"], units[kind], strict=True)]
    if isinstance(units, Mapping):
        return [
            (_integer(layer), _integer(unit))
            for layer, indices in units.items()
            for unit in _listed(indices, layer, kind)
        ]
    if isinstance(units, str) or not isinstance(units, Iterable):
        raise TypeError(
            f"expected {kind}s as a table with columns layer and {kind}, or (layer, {kind}) pairs, "
            f"got {type(units).__name__}"
        )
    return [_pair(item, kind) for item in units]


def _pair(item: Any, kind: str) -> tuple[int, int]:
    try:
        layer, unit = item
    except (TypeError, ValueError):
        raise TypeError(f"expected (layer, {kind}) pairs of integers, got {item!r} among them") from None
    return _integer(layer), _integer(unit)


def _listed(indices: Any, layer: Any, kind: str) -> list[Any]:
    """What a mapping gives for one layer, as a list."""
    if isinstance(indices, Tensor):
        indices = indices.tolist()
    if isinstance(indices, str) or not isinstance(indices, Iterable):
        raise TypeError(f"expected a list of {kind}s for layer {layer}, such as {{{layer}: [120, 7]}}, got {indices!r}")
    return list(indices)


def _integer(value: Any) -> int:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"expected integers, got a tensor of shape {list(value.shape)} among them")
        value = value.item()
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"expected integers, got {value!r} ({type(value).__name__})")
    return int(value)


def _check_unique(pairs: list[tuple[int, int]], kind: str) -> None:
    twice = [pair for pair, times in Counter(pairs).items() if times > 1]
    if twice:
        shown = ", ".join(f"layer {layer} {kind} {unit}" for layer, unit in twice[:5])
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise ValueError(
            f"the same {kind} is given more than once: {shown}{more}; "
            f"a table can be made unique with .drop_duplicates(['layer', '{kind}'])"
        )


def _check_inside(values: list[int], size: int, what: str) -> None:
    outside = sorted({value for value in values if not 0 <= value < size})
    if outside:
        raise ValueError(
            f"{what} {', '.join(map(str, outside[:5]))} is outside the model's {size} {what}s (0 to {size - 1})"
        )
