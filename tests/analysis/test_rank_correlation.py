"""Spearman's rank correlation, with ranks counted pair by pair."""

import math

import numpy as np
import pytest
import torch

from lens_multimodal.analysis.rank_correlation import rank_correlation


def ranks(values: list[float]) -> list[float]:
    """The number of smaller values, and half of the equal ones."""
    return [sum((other < value) + (other == value) / 2 for other in values) for value in values]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_ties_share_a_rank(dtype):
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(-5, 6, (40,), generator=generator).to(dtype) for _ in range(2))
    expected = np.corrcoef(ranks(one.tolist()), ranks(other.tolist()))[0, 1]
    assert rank_correlation(one, other) == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(one, -one.pow(3)) == pytest.approx(-1)


def test_nothing_to_order():
    assert math.isnan(rank_correlation(torch.ones(3), torch.arange(3.0)))
    assert math.isnan(rank_correlation(torch.ones(1), torch.ones(1)))
    assert math.isnan(rank_correlation(torch.ones(0), torch.ones(0)))
