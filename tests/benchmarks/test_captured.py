"""Attribution with zeros as leaves, its CUDA graph replaced by a plain call, against the library's own."""

import pytest
import torch

from benchmarks.captured import CapturedAttribution, as_it_is, main
from lens_multimodal import transformer
from lens_multimodal.analysis import top_neurons_by_row
from tests.lenses import make_lens, random_prompt

TOP = 12


def embedded(lens, prompt):
    with torch.no_grad():
        return transformer.embedding_module(lens.model)(prompt.tokens)


@pytest.mark.parametrize("layout", ["gpt-j", "llama"])
def test_one_capture_serves_every_picture_and_target_of_its_shape(layout):
    lens = make_lens(layout)
    prompts = [random_prompt(lens, [6, -4], [6, -4], seed=seed) for seed in (1, 2)]
    positions = prompts[0].image_pos[0]
    captured = CapturedAttribution(lens, embedded(lens, prompts[0]), positions, capture=as_it_is, top=TOP)
    for prompt, targets in zip(prompts, ([5, 80], [33, 2]), strict=True):
        values, neurons = captured(embedded(lens, prompt), torch.tensor(targets))
        with lens.running_on("hooked"):
            table = top_neurons_by_row(lens.model, prompt.tokens, targets, positions, top_k=TOP)
        expected = torch.tensor(table["attribution"].to_numpy()).view(2, TOP)
        assert torch.allclose(values, expected, rtol=1e-4, atol=1e-6)
        flat = torch.tensor((table["layer"] * lens.shape.d_mlp + table["neuron"]).to_numpy()).view(2, TOP)
        assert torch.equal(neurons, flat)


def test_numbers_that_are_not_finite_are_refused():
    lens = make_lens("llama")
    prompt = random_prompt(lens, [6, -4])
    captured = CapturedAttribution(lens, embedded(lens, prompt), prompt.image_pos[0], capture=as_it_is, top=TOP)
    with torch.no_grad():
        lens.model.blocks[1].mlp.W_out.fill_(torch.inf)
    with pytest.raises(FloatingPointError):
        captured(embedded(lens, prompt), torch.tensor([5]))


def test_the_script_runs_without_a_gpu(capsys):
    main(["--device", "cpu", "--shape", "tiny", "--batch", "1", "--rounds", "1"])
    assert "captured" in capsys.readouterr().out
