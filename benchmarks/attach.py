"""What eyes cost: a forward pass of the bare TransformerLens model against the same pass with a lens attached.

`python -m benchmarks.attach` alternates the two on one model in one process and prints the ratio of their medians; the
aim is under 1.02. The prompt holds 196 virtual tokens and 4 words; the bare model gets 200 words, since it cannot take
images, and also the lens is measured on those 200 words, where it has nothing to do.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from transformers import GPTJConfig, GPTJForCausalLM

from lens_multimodal.model import host
from lens_multimodal.model.virtual_tokens import VirtualTokens

IMAGE, WORDS = 196, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    config = GPTJConfig(
        vocab_size=2000, n_positions=256, n_embd=options.d_model, n_layer=options.layers, n_head=8, rotary_dim=32
    )
    model = host.wrap(GPTJForCausalLM(config).eval().to(options.device))
    words = torch.randint(2000, (1, IMAGE + WORDS), device=options.device)
    embedding = host.embedding_module(model)

    def bare() -> None:
        host.logits_of(model, words)

    def seen(tokens: torch.Tensor, *, image: bool) -> float:
        virtual = VirtualTokens(embedding, d_vocab=2000, d_model=options.d_model)
        if image:
            prompt = virtual.store(torch.randn(IMAGE, options.d_model, device=options.device))
            tokens[0, :IMAGE] = prompt.ids.to(options.device)
        seconds = _timed(lambda: host.logits_of(model, tokens), options.device)
        virtual.remove()
        return seconds

    rounds: dict[str, list[float]] = {"bare": [], "lens, words only": [], "lens, image and words": []}
    with torch.no_grad():
        for _ in range(options.rounds + 3):
            rounds["bare"].append(_timed(bare, options.device))
            rounds["lens, words only"].append(seen(words.clone(), image=False))
            rounds["lens, image and words"].append(seen(words.clone(), image=True))
    medians = {name: statistics.median(seconds[3:]) for name, seconds in rounds.items()}
    ratios = {name: value / medians["bare"] for name, value in medians.items()}
    print(json.dumps({"seconds": medians, "ratio to bare": ratios, "torch": torch.__version__}, indent=1))


def _timed(run: Callable[[], object], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
