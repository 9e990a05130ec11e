"""A run of image vectors and the token ids that stand for them."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftPrompt:
    """A run of stored vectors and the token ids that stand for them.

    The ids work for as long as this object lives, or until `VirtualTokens.forget`. A copy is the same object, and so
    is one unpickled in the process where it still lives; elsewhere its ids are unknown.
    """

    first_id: int
    vectors: Float[Tensor, "pos d_model"]
    forward_arguments: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """Arguments that the model's forward pass needs with this image, by name: Qwen2-VL's `image_grid_thw`, `[1, 3]`."""

    @property
    def ids(self) -> Int[Tensor, " pos"]:
        """The token ids, on the CPU."""
        return torch.arange(self.first_id, self.first_id + len(self.vectors))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.first_id, self.vectors, self.forward_arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SoftPrompt":
        return self


alive: weakref.WeakValueDictionary[int, SoftPrompt] = weakref.WeakValueDictionary()
"""Every soft prompt stored in this process, by its first id."""


def _unpickled(first_id: int, vectors: Tensor, forward_arguments: Mapping[str, Tensor]) -> SoftPrompt:
    if (known := alive.get(first_id)) is not None:
        return known
    return SoftPrompt(first_id=first_id, vectors=vectors, forward_arguments=forward_arguments)
