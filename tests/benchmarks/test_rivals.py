"""Every rival computes what the library computes, or its time would mean nothing."""

import importlib.util

import pytest
import torch

from benchmarks import rivals
from benchmarks.workbench import Workbench
from lens_multimodal.analysis import neuron_attribution, top_neurons_by_row

CEILINGS = {"matmul FLOP/s": 1e11, "copy bytes/s": 1e10}


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(shape="tiny", device="cpu", dtype=torch.float32, rounds=1, n_stream=16, ceilings=CEILINGS)


def test_the_plain_model_shares_the_weights(bench):
    ours = {p.data_ptr() for p in bench.lens.model.parameters()}
    assert {p.data_ptr() for p in bench.plain.parameters()} <= ours


def needs(package: str):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@pytest.mark.parametrize(
    "rival",
    [
        "by_hand",
        "transformer_lens_hooks",
        "layer_loop",
        pytest.param("captum_list", marks=needs("captum")),
        pytest.param("captum_one_by_one", marks=needs("captum")),
        pytest.param("nnsight_trace", marks=needs("nnsight")),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_each_rival_agrees(rival, bench):
    prompt, token = bench.prompts(), 23
    embedded = bench.embedded(prompt)
    runs = {
        "by_hand": lambda: rivals.by_hand(bench.plain, embedded, [token])[0],
        "transformer_lens_hooks": lambda: rivals.transformer_lens_hooks(bench.lens.model, embedded, token),
        "layer_loop": lambda: rivals.layer_loop(bench.plain, embedded, token),
        "captum_list": lambda: rivals.captum_layers(bench.plain, embedded, token, one_by_one=False),
        "captum_one_by_one": lambda: rivals.captum_layers(bench.plain, embedded, token, one_by_one=True),
        "nnsight_trace": lambda: rivals.nnsight_trace(bench.plain, embedded, token),
    }
    ours = neuron_attribution(bench.lens.model, prompt.tokens, token)[0]
    other = neuron_attribution(bench.lens.model, prompt.tokens, token + 1)[0]
    scale = float(ours.abs().max())
    found = runs[rival]()
    torch.testing.assert_close(found, ours, rtol=1e-3, atol=1e-5 * scale)
    assert (found - other).abs().max() > 0.1 * scale


def test_a_batch_by_hand_agrees(bench):
    prompt, targets = bench.prompts(3), bench.targets(3)
    ours = top_neurons_by_row(bench.lens.model, prompt.tokens, targets, prompt.image_pos[0], top_k=20)
    expected = torch.tensor(ours["attribution"].to_numpy()).reshape(3, 20)
    embedded = bench.embedded(prompt)
    found = rivals.by_hand_in_batch(bench.plain, embedded, targets, prompt.image_pos[0], top=20)
    torch.testing.assert_close(found, expected.to(found), rtol=1e-3, atol=1e-6)
    alone = rivals.by_hand_in_batch(bench.plain, embedded[1:2], targets[1:2], prompt.image_pos[0], top=20)
    torch.testing.assert_close(found[1:2], alone, rtol=1e-3, atol=1e-6)
    assert (found[0] - found[1]).abs().max() > 0.1 * found.abs().max()


def test_soft_prompts_by_hand_agree(bench):
    pictures = [bench.picture(seed) for seed in range(2)]
    prompt = bench.lens.prompt(pictures)
    ours = torch.stack([prompt.spans[row][0].image.soft_prompt.vectors for row in range(2)])
    torch.testing.assert_close(rivals.soft_prompts(bench.lens, pictures), ours)
