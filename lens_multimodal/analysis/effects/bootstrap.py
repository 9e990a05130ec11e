"""Bootstrap intervals for means over prompts."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over prompts and its bootstrap interval; the bounds are NaN for fewer than two prompts."""

    mean: float
    low: float
    high: float
    n: int
    level: float


def bootstrap_interval(values: Any, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of one value per prompt, with the percentile bootstrap interval (Efron 1979) over prompts.

    Raises: ValueError for no values, values that are not finite, or a level outside (0, 1).
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    if len(sample) == 0:
        raise ValueError("no values to take a bootstrap interval of")
    if not np.isfinite(sample).all():
        raise ValueError(f"{int((~np.isfinite(sample)).sum())} of {len(sample)} values are not finite")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a number between 0 and 1 such as 0.95")
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean=mean, low=float("nan"), high=float("nan"), n=1, level=level)
    generator = np.random.default_rng(seed)
    means = sample[generator.integers(len(sample), size=(n_resamples, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=mean, low=float(low), high=float(high), n=len(sample), level=level)
