"""Ids that belong to no word, that no other process uses, and that rounding does not turn into one another."""

import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from lens_multimodal.prompt import virtual_ids
from lens_multimodal.prompt.virtual_tokens import UnknownImageTokens, VirtualTokens


@pytest.fixture(params=range(4))
def starting_block(request) -> Iterator[int]:
    """A random start, the two ends of the range, and a block whose lower 32 bits would begin at zero."""
    first, last = virtual_ids._FIRST, virtual_ids._LAST
    block = (np.random.default_rng(0).integers(first, last), first, last - 1, first + virtual_ids._WORDS)[request.param]
    before = virtual_ids._next_id
    virtual_ids._next_id = virtual_ids._start_of(int(block))
    yield int(block)
    virtual_ids._next_id = before


@pytest.fixture
def bank() -> VirtualTokens:
    return VirtualTokens(nn.Embedding(50_000, 3), d_vocab=50_000, d_model=3)


def assert_unknown(bank: VirtualTokens, ids: torch.Tensor) -> None:
    """None of these ids stands for an image or a word."""
    for i in ids.long().tolist():
        with pytest.raises(UnknownImageTokens):
            bank.embedding(torch.tensor([i]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32])
@pytest.mark.usefixtures("starting_block")
def test_rounded_ids_are_unknown(bank, dtype):
    images = [bank.store(torch.randn(7, 3)) for _ in range(6)]
    for image in images:
        assert_unknown(bank, image.ids.to(dtype))
        assert torch.equal(bank.embedding(image.ids), image.vectors)


@pytest.mark.usefixtures("starting_block")
def test_no_float32_lies_in_a_block():
    first = virtual_ids.fresh_ids(1)
    block = np.arange(first, first + virtual_ids._BLOCK - 1, 997)
    rounded = block.astype(np.float32).astype(np.int64)
    assert not ((rounded >= first) & (rounded < first + virtual_ids._BLOCK - 1)).any()
    assert (block.astype(np.float64).astype(np.int64) == block).all()
    assert json.loads(json.dumps(float(block[-1]))) == block[-1]


@pytest.mark.usefixtures("starting_block")
def test_a_full_block_is_followed_by_another():
    seen = []
    for _ in range(5):
        first = virtual_ids.fresh_ids(virtual_ids._BLOCK // 3)
        seen.append((first, first + virtual_ids._BLOCK // 3))
        assert first % virtual_ids._BLOCK + virtual_ids._BLOCK // 3 <= virtual_ids._BLOCK
        assert first // virtual_ids._BLOCK % virtual_ids._WORDS != 0
        assert 2**48 <= first < 2**53
    for (_, stop), (start, _) in itertools.pairwise(seen):
        assert start >= stop


def made_elsewhere(queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    bank = VirtualTokens(nn.Embedding(50_000, 3), d_vocab=50_000, d_model=3)
    queue.put([bank.store(torch.randn(4, 3)).ids.tolist() for _ in range(3)])


@pytest.mark.newest
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_ids_of_another_process_are_unknown(bank, way, tmp_path):
    if way not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {way} on this system")
    own = [bank.store(torch.randn(4, 3)) for _ in range(3)]
    context = multiprocessing.get_context(way)
    queue = context.Queue()
    workers = [context.Process(target=made_elsewhere, args=(queue,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()  # a few numbers fit into the queue's pipe
        assert worker.exitcode == 0
    found = [ids for _ in workers for image in queue.get() for ids in image]
    assert len(set(found)) == 2 * 3 * 4
    torch.save(torch.tensor(found), tmp_path / "tokens.pt")
    assert_unknown(bank, torch.load(tmp_path / "tokens.pt", weights_only=True))
    for image in own:
        assert torch.equal(bank.embedding(image.ids), image.vectors)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_a_thread_draws_ids():
    """The child has none of the parent's threads, so a lock that one of them held would never open."""
    read, write = os.pipe()
    with virtual_ids._lock:
        child = os.fork()
        if child == 0:
            os.write(write, str(virtual_ids.fresh_ids(3)).encode())
            os._exit(0)
    os.waitpid(child, 0)
    assert abs(int(os.read(read, 100)) - virtual_ids._next_id) >= virtual_ids._BLOCK - 10
