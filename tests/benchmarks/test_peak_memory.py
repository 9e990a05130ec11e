"""The measurement of tensor memory that benchmarks and memory tests share."""

import torch

from benchmarks.peak_memory import tensor_peak


def test_the_largest_rise_counts_what_is_alive_together():
    def run() -> torch.Tensor:
        first = torch.ones(2**20)
        second = torch.ones(2**19)
        del first
        torch.ones(2**10)
        return second

    assert tensor_peak(run) == 4 * (2**20 + 2**19)


def test_what_was_there_before_does_not_count():
    there = torch.ones(2**20)
    assert tensor_peak(lambda: there[: 2**10].neg()) == 4 * 2**10


def test_memory_that_a_first_run_releases_does_not_count():
    kept = [torch.ones(2**20)]

    def run() -> None:
        kept.clear()
        kept.append(torch.ones(2**16))

    assert tensor_peak(run) <= 2 * 4 * 2**16
