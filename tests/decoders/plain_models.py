"""The random models of the families as plain transformers has them, and their modules."""

import warnings
from functools import cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from tests.decoders.families import FAMILIES


@cache
def plain(name: str) -> PreTrainedModel:
    """Never wrapped, never changed."""
    model = _made(name)
    randomise(model)
    return model


def twin(name: str) -> PreTrainedModel:
    """A copy of the same weights, to be wrapped or edited."""
    made = _made(name)
    made.load_state_dict(plain(name).state_dict())
    return made


def randomise(model: nn.Module, *, seed: int = 0) -> None:
    """Weights that give logits of a few units; norm weights and biases scatter around their initial values."""
    generator = torch.Generator().manual_seed(seed)
    scales = [buffer for buffer_name, buffer in model.named_buffers() if buffer_name.endswith("layer_scalar")]
    with torch.no_grad():
        for weight in [*model.parameters(), *scales]:
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight)
            if weight.ndim == 1:
                weight.add_(0.3 * noise)
            else:
                weight.copy_(noise / weight.shape[-1] ** 0.5)


def part(module: nn.Module, path: str) -> Any:
    return module.get_submodule(path)


def block(name: str, model: nn.Module, layer: int) -> Any:
    return part(model, f"{FAMILIES[name].blocks}.{layer}")


def neuron_reader(name: str, model: nn.Module, layer: int) -> Any:
    """The linear layer that reads a block's neurons."""
    return part(block(name, model, layer), FAMILIES[name].neurons)


def head_reader(name: str, model: nn.Module, layer: int) -> Any:
    """The linear layer that reads a block's attention heads."""
    return part(block(name, model, layer), FAMILIES[name].heads)


def _made(name: str) -> PreTrainedModel:
    family = FAMILIES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():  # the module of GPT-BigCode calls torch.jit.script
        warnings.simplefilter("ignore", FutureWarning)
        model_class = getattr(transformers, family.model)
    made = model_class(family.make_config())
    return made.to(family.dtype).eval().requires_grad_(False)
