"""GPT-J-6B's true width with BEiT-large through everything: a few of its 28 layers on a CPU in bounded memory, all of
them on a GPU.

A CPU without arithmetic for bfloat16 emulates it, up to more than ten times slower than float32. It gets float32 here;
bfloat16 itself is covered there by the small models of the other tests.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

LIMIT = 24 * 2**30
"""The required limit; the asserted one is far tighter."""


@pytest.mark.newest
@pytest.mark.slow
def test_a_slice_of_gpt_j_runs_through_everything():
    dtype, least, most = ("bfloat16", 2.15e9, 2.35e9) if has_bfloat16_arithmetic() else ("float32", 4.3e9, 4.7e9)
    found = through_everything("cpu", dtype, n_layers=2)
    weights = found["weights"]
    assert least < weights < most
    assert found["peak"] < LIMIT
    assert found["peak"] < weights + 2.5 * 2**30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gpt_j_runs_through_everything_on_a_gpu(dtype):
    found = through_everything("cuda", dtype, 28)
    assert 12.0e9 < found["weights"] < 13.5e9
    assert found["peak_on_gpu"] < found["weights"] + 6 * 2**30
    assert found["peak"] < 8 * 2**30, "the weights were made in main memory"


def has_bfloat16_arithmetic() -> bool:
    """Whether this processor multiplies matrices in bfloat16 about as fast as in float32, by a small trial."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        matrix @ matrix  # the first product sets things up
        began = time.process_time()
        for _ in range(16):
            matrix @ matrix
        seconds[dtype] = time.process_time() - began
    return seconds[torch.bfloat16] < 1.5 * seconds[torch.float32]


def through_everything(device: str, dtype: str, n_layers: int) -> dict[str, Any]:
    """What `main` found, checked for what holds on every device."""
    command = [sys.executable, "-m", "tests.test_full_size", device, dtype, str(n_layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["sizes"] == [n_layers, 4096, 16_384, 50_400]
    assert found["prompt"] == [1, 199]
    assert found["image_grid"] == [14, 14]
    assert found["precision"] == dtype
    assert found["caption"]
    assert found["neurons"] == 20
    assert found["decoded"] == [10] * 5
    assert found["ablation_changes_the_logit"] > 0
    assert found["patching_changes_the_logit"] > 0
    return found


def main(device: str, dtype: str, n_layers: int) -> None:
    """In a process of its own, since the peak of a process cannot be taken back."""
    import numpy as np
    from PIL import Image

    from lens_multimodal import attach_vision, decode_neurons, top_neurons
    from lens_multimodal.analysis import act_patch_resid_pre
    from lens_multimodal.hooks import ablate
    from lens_multimodal.presets.random_weights import RandomWeights

    torch.set_num_threads(1)
    lens = attach_vision(
        "gpt-j-limber-beit", weights=RandomWeights(n_layers=n_layers), device=device, dtype=getattr(torch, dtype)
    )
    sizes = lens.shape
    noise = [np.random.default_rng(i).integers(0, 256, (90, 120, 3), dtype=np.uint8) for i in range(2)]
    one, other = (lens.prompt(Image.fromarray(pixels)) for pixels in noise)
    [caption] = lens.generate(one, max_new_tokens=2)
    image_pos, token = one.image_pos[0], 17
    found = top_neurons(lens.model, one.tokens, token, image_pos, top_k=20)
    decoded = decode_neurons(lens.model, found.head(5), budget_bytes=2**28)
    with torch.no_grad():
        before = lens.logits(one)[0, -1].float()
        with lens.model.hooks(fwd_hooks=ablate(lens.model, found, positions=image_pos)):
            after = lens.logits(one)[0, -1].float()
    sweep = act_patch_resid_pre(lens.model, one.tokens, other.tokens, token, layers=[1], positions=[0, 100])
    parts = (lens.model, lens.vision, lens.projection)
    weights = {p.data_ptr(): p.nbytes for part in parts for p in part.parameters()}
    result = {
        "sizes": [sizes.n_layers, sizes.d_model, sizes.d_mlp, sizes.d_vocab],
        "prompt": list(one.tokens.shape),
        "image_grid": list(one.grid),
        "precision": str(next(lens.model.parameters()).dtype).removeprefix("torch."),
        "caption": caption,
        "neurons": len(found),
        "decoded": [len(tokens) for tokens in decoded["tokens"]],
        "ablation_changes_the_logit": float((after - before).abs().max()),
        "patching_changes_the_logit": float(sweep.effect.abs().max()),
        "weights": sum(weights.values()),
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "peak_on_gpu": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
