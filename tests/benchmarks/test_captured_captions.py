"""Captions with a cache of fixed size, their CUDA graphs replaced by plain calls, against the library's own."""

import pytest
import torch

from benchmarks.captured import as_it_is
from benchmarks.captured_captions import CapturedCaptions, main
from lens_multimodal import transformer
from tests.benchmarks.test_captured import embedded
from tests.lenses import make_lens, random_prompt

NEW = 7


@pytest.mark.parametrize("layout", ["gpt-j", "llama"])
def test_one_capture_serves_every_picture_of_its_shape(layout):
    lens = make_lens(layout)
    prompts = [random_prompt(lens, [6, -4], [6, -4], seed=seed) for seed in (1, 2, 3)]
    captured = CapturedCaptions(lens, embedded(lens, prompts[0]), new=NEW, capture=as_it_is)
    said = []
    for prompt in prompts:
        with lens.running_on("hooked"):
            expected = transformer.generate(lens.model, prompt.tokens, max_new_tokens=NEW, stop_ids=[])[:, -NEW:]
        assert torch.equal(captured(embedded(lens, prompt)), expected)
        said += expected.tolist()
    assert len({tuple(ids) for ids in said}) > 3


def test_the_script_runs_without_a_gpu(capsys):
    main(["--device", "cpu", "--shape", "tiny", "--batch", "2", "--rounds", "1", "--pictures", "16"])
    printed = capsys.readouterr().out
    assert printed.count("2 of 2 captions the same") == 3
    assert "stream of 16 pictures" in printed
