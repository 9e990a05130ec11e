"""Whether two computations of the same numbers agree, as far as the precision allows."""

import torch
from torch import Tensor

from lens_multimodal.precision import wide


def disagreement(found: Tensor, expected: Tensor, dtype: torch.dtype) -> float | None:
    """The largest difference in units of the largest expected number, if `dtype` does not explain it; else None.

    Args: dtype: the precision of the model; norms and softmaxes are computed in float32 by many models in float64.
    """
    off = relative_difference(found, expected)
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    explained = off < min(16 * eps**0.5, 0.3)
    return None if explained else off


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference in units of the largest expected number; NaN where either is not finite."""
    found, expected = wide(found.detach()).flatten(), wide(expected.detach()).flatten().to(found.device)
    size = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((found - expected).abs().max() / size)
