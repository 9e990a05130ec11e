"""The graph of a frozen model: what every function needs that differentiates through activations.

Parameters need no gradient. The graph begins at a leaf placed in the residual stream, and is recorded even when the
caller works under `torch.no_grad` or `torch.inference_mode`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


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
