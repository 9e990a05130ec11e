"""The modules of a vision-language model between pixels and its decoder, and another projector in their place."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def parts_before(model: Any) -> Mapping[str, nn.Module]:
    """The modules that a picture passes before the decoder, by name: the encoder first, a projector last."""
    decoder = {id(module) for module in model.get_decoder().modules()}
    inner = model.model if hasattr(model, "model") else model
    return {
        name: child
        for name, child in inner.named_children()
        if not {id(module) for module in child.modules()} & decoder
    }


def check_class_holds(model: Any) -> None:
    """Check that the model's class and configuration describe its parts, so that its saved folder can be loaded.

    Raises: ValueError for a part with other weights, such as another projector.
    """
    with torch.device("meta"):
        described = parts_before(type(model)(model.config))
    for name, part in parts_before(model).items():
        if _shapes(part) != _shapes(described[name]):
            raise ValueError(
                f"{type(model).__name__} has a {type(described[name]).__name__} as its {name}, and here a "
                f"{type(part).__name__} stands in its place, so a saved folder could not be loaded: save the weights "
                f"of lens.images.projector by themselves"
            )


def _shapes(part: nn.Module) -> dict[str, torch.Size]:
    weights: Mapping[str, Tensor] = dict(part.named_parameters())
    return {name: weight.shape for name, weight in weights.items()}
