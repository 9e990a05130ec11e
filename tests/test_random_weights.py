"""Trios of true shape with random weights: which numbers, where, and never twice in memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from PIL import Image
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lens_multimodal import attach_vision, presets
from lens_multimodal.presets.random_weights import RandomTrio, RandomWeights, random_module, stand_in_tokenizer


def small(*, seed: int = 0, dtype: torch.dtype | None = None, n_layers: int | None = None) -> nn.Module:
    architecture = presets.get("tiny").architecture
    settings = RandomWeights(seed=seed, n_layers=n_layers)
    return RandomTrio(architecture=architecture, settings=settings, dtype=dtype).language_model()[0]


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_the_seed_and_the_name_decide():
    first, again, other = small().state_dict(), small().state_dict(), small(seed=1).state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        assert not torch.equal(tensor, other[name]), name
    queries = [tensor for name, tensor in first.items() if name.endswith("q_proj.weight")]
    assert len({float(tensor[0, 0]) for tensor in queries}) == len(queries)


def test_a_slice_has_the_weights_of_the_whole():
    whole, part = small().state_dict(), small(n_layers=2).state_dict()
    assert len([name for name in part if name.endswith("fc_in.weight")]) == 2
    for name, tensor in part.items():
        assert torch.equal(tensor, whole[name]), name


def test_every_precision_rounds_the_same_numbers():
    exact = small().state_dict()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for name, tensor in small(dtype=dtype).state_dict().items():
            assert tensor.dtype == dtype
            assert torch.equal(tensor, exact[name].to(dtype)), name


def test_signals_keep_their_size():
    """Neither vanishing nor overflowing in float16, whatever the depth; no bias or scale is left at its start."""
    model = small()
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    hidden = model(torch.arange(30)[None], output_hidden_states=True)
    assert 0.3 < hidden.logits.std() < 10
    assert hidden.hidden_states[-1].abs().max() < 1000
    for name, parameter in model.named_parameters():
        assert parameter.std() > 0, name
        if parameter.ndim == 1:
            assert abs(float(parameter.mean()) - (1.0 if name.endswith("weight") else 0.0)) < 0.1, name


def test_tied_weights_stay_tied():
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    made = random_module(lambda: GPT2LMHeadModel(config))
    assert made.lm_head.weight is made.transformer.wte.weight
    assert made.lm_head.weight.device.type == "cpu"


PEAK = """
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from benchmarks.peak_memory import peak, reset_peak
from lens_multimodal.presets import random_weights

def build():
    return nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(12)))

random_weights.random_module(lambda: nn.Linear(4, 4))
random_weights.CHUNK = 2**20
before = reset_peak("cpu")
model = random_weights.random_module(build, dtype=torch.bfloat16)
print((peak("cpu") - before) / sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
def test_never_twice_in_memory():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.15


@pytest.mark.parametrize(
    ("name", "d_vision", "positions"),
    [
        ("gpt-j-limber-beit", 1024, 1),
        ("gpt-j-limber-beit-ft", 1024, 1),
        ("gpt-j-limber-clip", 3072, 1),
        ("gpt-j-limber-nf-resnet50", 2048, 2),
    ],
)
def test_true_shapes(name, d_vision, positions):
    """Built without storage: the sizes that the paper and LiMBeR name."""
    architecture = presets.get(name).architecture
    config = architecture.language_model()
    assert (config.n_layer, config.n_embd, config.n_inner or 4 * config.n_embd) == (28, 4096, 16_384)
    assert (config.n_head, config.rotary_dim, config.vocab_size, config.n_positions) == (16, 64, 50_400, 2048)
    with init_empty_weights():
        linear, encoder = architecture.projection(), architecture.vision()
    assert (linear.in_features, linear.out_features) == (d_vision, positions * 4096)
    size = architecture.preprocessing
    blank = torch.zeros(1, 3, size.height, size.width, device="meta")
    run = getattr(encoder.to("meta").eval(), "forward_features", encoder)
    features = run(blank)
    if "beit" in name:
        assert features.shape == (1, 197, d_vision)
        assert 295e6 < sum(p.numel() for p in encoder.parameters()) < 310e6
    elif "clip" in name:
        assert features.shape == (1, d_vision, 12, 12)
    else:
        assert features.shape == (1, 1, d_vision)


def test_a_lens_with_random_weights():
    lens = attach_vision("tiny", weights=RandomWeights(seed=3, n_layers=2), dtype=torch.bfloat16)
    assert lens.name == "tiny (random weights, seed 3, 2 layers)"
    assert lens.shape.n_layers == 2
    assert {p.dtype for p in lens.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in lens.vision.parameters()} == {torch.bfloat16}
    prompt = lens.prompt(picture())
    assert prompt.grid == (6, 6)
    assert lens.caption(picture(), max_new_tokens=4) == lens.caption(picture(), max_new_tokens=4)
    same = attach_vision("tiny", weights="random")
    assert same.name == "tiny (random weights, seed 0)"
    assert same.shape.n_layers == 8
    assert not torch.equal(same.projection.linear.weight, lens.projection.linear.weight)


def test_own_parts_beside_random_ones():
    linear = presets.get("tiny").projection()
    lens = attach_vision("tiny", weights="random", projection=linear)
    assert lens.projection.linear is linear


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weights .*RandomWeights\(\.\.\.\), got 'zeros'"):
        attach_vision("tiny", weights="zeros")
    with pytest.raises(ValueError, match=r"preset.* tiny, gpt-j-limber"):
        attach_vision(tmp_path, weights="random")
    with pytest.raises(ValueError, match=r"n_layers=9 .* 8 layers"):
        attach_vision("tiny", weights=RandomWeights(n_layers=9))
    with pytest.raises(ValueError, match=r"n_layers .* 0$"):
        RandomWeights(n_layers=0)
    with pytest.raises(ValueError, match=r"seed .* -1$"):
        RandomWeights(seed=-1)


def test_every_token_has_a_name():
    tokenizer = stand_in_tokenizer(50_400)
    assert len(tokenizer) == 50_400
    words = [tokenizer.decode([i]) for i in (5120, 6000, 50_399)]
    assert words == ["<5120>", "<6000>", "<50399>"]
    assert tokenizer.decode(tokenizer("A picture of a dog")["input_ids"]) == "A picture of a dog"
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    with pytest.raises(ValueError, match=r"vocabulary of 100\b"):
        stand_in_tokenizer(100)
