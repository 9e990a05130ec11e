"""The graph of a frozen model: what every function needs that differentiates through activations.

Parameters need no gradient. The graph begins at a leaf placed in the residual stream, and is recorded even when the
caller works under `torch.no_grad` or `torch.inference_mode`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def gradients_on() -> Iterator[None]:
    """Record gradients even when called under `torch.no_grad` or `torch.inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def start_graph(activation: Tensor, hook: Any) -> Tensor:
    """Hook: a fresh leaf that requires a gradient, so that frozen models can be differentiated above it."""
    return activation.detach().clone().requires_grad_()


def normal_tensor(values: Any) -> Any:
    """A tensor made under inference mode as a normal one, which a graph can keep; anything else as it is."""
    if not isinstance(values, Tensor) or not values.is_inference():
        return values
    with torch.inference_mode(False):
        return values.clone()


def check_differentiable(model: nn.Module) -> None:
    """Raise ValueError for a model made under inference mode, or one whose dropout is switched on."""
    for module in _modules(model):
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_inference():
                name = next(name for name, own in model.named_parameters() if own is parameter)
                raise ValueError(
                    f"the model was made under torch.inference_mode (parameter {name}), so nothing can be "
                    f"differentiated through it; make it outside, torch.no_grad is fine"
                )
        if module.training and (share := _dropped(module)):
            name = next(name for name, own in model.named_modules() if own is module)
            raise ValueError(f"dropout is on ({name}, p={share}): attributions would be random; call model.eval()")


def check_finite_targets(values: Sequence[Float[Tensor, " row"]], activations: Mapping[str, Tensor]) -> None:
    """Raise FloatingPointError if a target overflowed.

    Args: activations: by hook name, in the order of the forward pass; the first that overflowed is named.
    """
    if bool(torch.stack([value.detach().isfinite().all() for value in values]).all()):
        return
    bad = [name for name, activation in activations.items() if not bool(activation.isfinite().all())]
    dtype = f" in {next(iter(activations.values())).dtype}" if activations else ""
    where = f"the first activation that is: {bad[0]}" if bad else "no activation that was looked at is"
    raise FloatingPointError(
        f"the target is infinite or not a number{dtype} ({where}); check the weights and the image "
        f"vectors, or run the model in float32"
    )


def _dropped(module: nn.Module) -> float:
    """The share that a module of Hugging Face or PyTorch drops in training mode, itself or by a function it calls."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return float(module.p)
    shares = [value for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]
    return max(shares, default=0.0)


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """Every module once, without names: a bridge has a thousand, and `model.modules()` spells out each one's path."""
    seen: set[nn.Module] = set()
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and module not in seen:
            seen.add(module)
            waiting.extend(module._modules.values())
            yield module
