"""What counts as rounding, in each precision."""

import pytest
import torch

from lens_multimodal.transformer.agreement import (
    PIXELS_AND_VECTORS,
    SAME_OPERATIONS,
    SAME_WEIGHTS,
    disagreement,
    relative_difference,
)

TOLERANCES = (SAME_WEIGHTS, SAME_OPERATIONS, PIXELS_AND_VECTORS)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_difference_is_measured_against_the_largest_number(tolerance, dtype):
    expected = torch.tensor([[-40.0, 3.0, 0.0]], dtype=torch.float64)
    allowed = 40 * tolerance.of(dtype)
    for off in (0.9 * allowed, 1.1 * allowed):
        found = expected + torch.tensor([[0.0, 0.0, off]], dtype=torch.float64)
        told = disagreement(found, expected, tolerance, dtype)
        assert (told is None) == (off < allowed)
        assert told is None or told == pytest.approx(off / 40)


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_no_tolerance_is_below_rounding_or_as_large_as_a_missing_factor(tolerance):
    for dtype in DTYPES:
        assert 4 * torch.finfo(dtype).eps < tolerance.of(dtype) < 1 / 3
    assert tolerance.of(torch.float64) <= tolerance.of(torch.float32) <= tolerance.of(torch.float16)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_never_agree(broken):
    numbers, other = torch.tensor([1.0, 2.0]), torch.tensor([1.0, broken])
    for found, expected in ((numbers, other), (other, numbers), (other, other)):
        assert disagreement(found, expected, SAME_WEIGHTS, torch.float32) is not None


def test_zeros_agree_with_zeros():
    assert relative_difference(torch.zeros(3), torch.zeros(3)) == 0
