"""Counted operations against PyTorch's own count of what really runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import floor
from benchmarks.workbench import small_lens
from lens_multimodal.analysis import top_neurons


@pytest.fixture(scope="module")
def lens():
    return small_lens(device="cpu", dtype=torch.float32, n_layers=3, d_model=64, grid=5, d_vocab=5500)


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("pos", [10, 60])
def test_a_forward_pass(lens, pos):
    tokens = torch.arange(pos)[None]
    with torch.no_grad():
        real = counted(lambda: lens.model(tokens, return_type="logits"))
    assert floor.forward(lens.shape, pos, read=pos).flops == pytest.approx(real, rel=1e-6)


@pytest.mark.parametrize(("n_targets", "pos"), [(1, 28), (3, 28), (1, 90)])
def test_attribution(lens, n_targets, pos):
    """The real run does nothing beyond the floor."""
    tokens = torch.arange(pos)[None]
    real = counted(lambda: top_neurons(lens.model, tokens, list(range(n_targets))))
    assert floor.attribution(lens.shape, pos, targets=n_targets).flops == pytest.approx(real, rel=1e-6)


def test_gpt_j_in_round_numbers():
    """Two operations per weight and token: about 2.4 TFLOP forward for 200 tokens of six billion weights."""
    from lens_multimodal.transformer import ModelShape

    gpt_j = ModelShape(n_layers=28, d_model=4096, d_mlp=16_384, d_vocab=50_400, n_heads=16, d_head=256, n_ctx=2048)
    assert 28 * floor.layer_weights(gpt_j) == pytest.approx(5.64e9, rel=0.01)
    assert floor.forward(gpt_j, 200).flops == pytest.approx(2.27e12, rel=0.02)
    assert 4.3e12 < floor.attribution(gpt_j, 200, width=2).flops < 5e12
    ceilings = {"matmul FLOP/s": 4e14, "copy bytes/s": 4e12}
    assert floor.attribution(gpt_j, 200, width=2).seconds(ceilings) == pytest.approx(0.0115, rel=0.1)
    # One token at a time is bound by reading the weights, not by arithmetic.
    step = floor.caption(gpt_j, 200, 2, width=2).bytes - floor.caption(gpt_j, 200, 1, width=2).bytes
    assert step == pytest.approx(2 * 5.84e9, rel=0.03)
    assert floor.decoding(gpt_j, 458_752).flops == pytest.approx(1.894e14, rel=0.01)
