"""Whether a pass through a model can be trusted, before it runs."""

from collections.abc import Iterator

from torch import nn


def check_before_pass(model: nn.Module, *, differentiated: bool) -> None:
    """Raise ValueError if dropout is switched on.

    Args:
        differentiated: the model is differentiated through, so raise also if it was made under inference mode.
    """
    for module in _modules(model):
        if module.training and (share := _dropped(module)):
            name = next(name for name, own in model.named_modules() if own is module)
            raise ValueError(f"dropout is on ({name}, p={share}): results would be random; call model.eval()")
        if differentiated:
            _check_differentiable(module, model)


def _check_differentiable(module: nn.Module, model: nn.Module) -> None:
    for parameter in module._parameters.values():
        if parameter is not None and parameter.is_inference():
            name = next(name for name, own in model.named_parameters() if own is parameter)
            raise ValueError(
                f"the model was made under torch.inference_mode (parameter {name}), so nothing can be "
                f"differentiated through it; make it outside, torch.no_grad is fine"
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
