"""Whether two computations of the same numbers agree, as far as the precision allows: the tolerances, and why."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Which difference is rounding, in units of the largest expected number, by precision."""

    float64: float
    float32: float
    float16: float
    bfloat16: float

    def of(self, dtype: torch.dtype) -> float:
        """For numbers of this precision."""
        allowed: float = getattr(self, str(dtype).removeprefix("torch."))
        return allowed


SAME_WEIGHTS = Tolerance(float64=5.5e-3, float32=5.5e-3, float16=0.3, bfloat16=0.3)
"""Two routes through one model: wrapped and plain, or its activations against its logits.

Norms and softmaxes are float32 in many models of float64. A missing factor or norm is off by more than a third.
"""

SAME_OPERATIONS = Tolerance(float64=3e-5, float32=3e-5, float16=2**-6, bfloat16=2**-3)
"""The modules of one model with and without hook points, whose numbers may replace each other in any result.

In half precision that is 16 steps of rounding.
"""

PIXELS_AND_VECTORS = Tolerance(float64=1e-6, float32=1e-3, float16=5e-2, bfloat16=5e-2)
"""A vision-language model from pixels, and its decoder from the image vectors: the same operations on the same numbers.

A decoder that gets its images differently is off by a third.
"""


def disagreement(found: Tensor, expected: Tensor, tolerance: Tolerance, dtype: torch.dtype) -> float | None:
    """The relative difference, if rounding does not explain it; else None. Args: dtype: the precision of the model."""
    off = relative_difference(found, expected)
    return None if off <= tolerance.of(dtype) else off


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference in units of the largest expected number; NaN where either is not finite."""
    found, expected = wide(found.detach()).flatten(), wide(expected.detach()).flatten().to(found.device)
    size = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((found - expected).abs().max() / size)
