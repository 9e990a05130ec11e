"""Decoding every neuron of a model of GPT-J's sizes, streamed: time per layer, peak memory, same answer.

    python -m benchmarks.decoding [--neurons 2048] [--budget-mb 1024] [--device cpu] [--dtype bfloat16]

The weights have GPT-J's widths (d_model 4,096, d_vocab 50,400) and are random. `--neurons` of the 458,752 are decoded
and the time for all is extrapolated linearly; 458752 decodes all. A sample is checked against the full product.
"""

import argparse
import json
import time

import torch

from benchmarks.memory import peak, reset_peak
from lens_multimodal.analysis.decoding.vocabulary_search import search_vocabulary
from lens_multimodal.analysis.selection import wide

D_MODEL, D_VOCAB, D_MLP, N_LAYERS = 4096, 50_400, 16_384, 28


def main() -> None:
    options = _options()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    generator = torch.Generator(device).manual_seed(0)
    w_u = torch.randn(D_MODEL, D_VOCAB, generator=generator, device=device, dtype=dtype) / D_MODEL**0.5
    w_out = torch.randn(min(D_MLP, options.neurons), D_MODEL, generator=generator, device=device, dtype=dtype)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    before = reset_peak(options.device)
    start = clock()
    done = 0
    while done < options.neurons:
        rows = w_out[: options.neurons - done]
        found = search_vocabulary(
            rows,
            lambda a, b: wide(w_u[:, a:b]),
            D_VOCAB,
            top_k=10,
            budget_bytes=options.budget_mb * 2**20,
        )
        done += len(rows)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = clock() - start
    extra = peak(options.device) - before
    expected = (w_out[:8].float() @ w_u.float()).topk(10)
    if options.neurons <= D_MLP:
        assert torch.equal(found.tokens[:8], expected.indices)
    print(
        json.dumps(
            {
                "device": options.device,
                "dtype": options.dtype,
                "neurons": options.neurons,
                "seconds": round(seconds, 2),
                "seconds for all 458,752 (extrapolated)": round(seconds / options.neurons * N_LAYERS * D_MLP, 1),
                "peak MB beyond the weights": round(extra / 2**20, 1),
                "full [n_neurons, d_vocab] would be GB": round(4 * N_LAYERS * D_MLP * D_VOCAB / 2**30, 1),
            },
            indent=1,
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--neurons", type=int, default=2048)
    parser.add_argument("--budget-mb", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
