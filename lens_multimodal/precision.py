"""The precision of results: half-precision models are read in float32."""

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """The same numbers in float32 or wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
