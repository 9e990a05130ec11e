"""Whether bf16 and fp16 find the neurons that float32 finds.

The language model alone, several times: the same random numbers rounded to each precision, one model in memory at a
time. Attribution is each neuron's maximum over the positions; products and reductions are in float32 whatever the
model's precision. Rounded weights in float32 arithmetic show how much of a difference comes from rounding the weights.
"""

import gc
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.figure import Figure
from benchmarks.workbench import Workbench
from lens_multimodal import presets, transformer
from lens_multimodal.analysis import neuron_attribution
from lens_multimodal.presets.random_weights import Architecture, RandomTrio, RandomWeights
from lens_multimodal.transformer.loading import place

POS, TOP = 64, 100
PRECISIONS = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of two rankings of the same neurons."""

    top_overlap: float
    """Share of the best hundred in common."""
    spearman: float
    """Rank correlation over all neurons."""


def measure(bench: Workbench) -> list[Figure]:
    """On the true-shape slice; on the embedded trio's shape if the workbench has that or the small one."""
    preset = presets.get("tiny" if bench.shape in ("tiny", "small") else "gpt-j-limber-beit")
    assert preset is not None
    bench.let_go()  # float32 takes twice the memory of the model that the other figures measure
    n_layers = 4 if bench.shape == "slice" else None
    exact = scores(preset.architecture, n_layers=n_layers, device=bench.device, dtype=torch.float32)
    found = {}
    for dtype in PRECISIONS:
        name = str(dtype).removeprefix("torch.")
        for what, computing in ((name, dtype), (f"{name} weights, float32 arithmetic", torch.float32)):
            own = scores(preset.architecture, n_layers=n_layers, device=bench.device, dtype=dtype, computing=computing)
            found[what] = agreement(exact, own)
    return [
        Figure(
            name="precision",
            work=f"attribution of {exact.numel():,} neurons over {POS} positions, shape of {preset.name}",
            more={
                name: {"top-100 overlap with float32": round(a.top_overlap, 3), "Spearman": round(a.spearman, 4)}
                for name, a in found.items()
            },
        )
    ]


def scores(
    architecture: Architecture,
    *,
    n_layers: int | None,
    device: str,
    dtype: torch.dtype,
    computing: torch.dtype | None = None,
    seed: int = 0,
) -> Tensor:
    """Each neuron's largest attribution, `[layer * d_mlp]`; the model is freed afterwards."""
    trio = RandomTrio(
        architecture=architecture,
        settings=RandomWeights(seed=seed, n_layers=n_layers),
        device=device,
        dtype=dtype,
    )
    language_model = trio.language_model()[0]
    place(language_model, dtype=computing)
    model = transformer.wrap(language_model)
    generator = torch.Generator().manual_seed(seed)
    d_vocab, n_ctx = transformer.shape(model).d_vocab, transformer.shape(model).n_ctx
    tokens = torch.randint(d_vocab, (1, min(POS, n_ctx)), generator=generator).to(device)
    found = neuron_attribution(model, tokens, 11)[0].amax(dim=1).flatten().cpu()
    del model, language_model
    gc.collect()
    return found


def agreement(exact: Tensor, other: Tensor, *, top: int = TOP) -> Agreement:
    best, found = (set(values.topk(top).indices.tolist()) for values in (exact, other))
    ranks = [values.argsort().argsort().double().numpy() for values in (exact, other)]
    return Agreement(top_overlap=len(best & found) / top, spearman=float(np.corrcoef(ranks)[0, 1]))
