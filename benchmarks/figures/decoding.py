"""The ten top tokens of every neuron: in chunks against the whole product at once."""

import torch
from torch import Tensor

from benchmarks.figure import OURS, Figure, compare
from benchmarks.floor import decoding
from benchmarks.memory import peak, reset_peak
from benchmarks.workbench import Workbench
from lens_multimodal.analysis import decode_layers
from lens_multimodal.analysis.decoding.vocabulary_search import search_vocabulary
from lens_multimodal.model import host

ON_A_CPU = 2e11
"""Operations that are decoded on a CPU; all the rest is extrapolated."""


def measure(bench: Workbench) -> list[Figure]:
    shape, model = bench.lens.shape, bench.lens.model
    cost = 2.0 * shape.d_model * shape.d_vocab
    per_layer = shape.d_mlp if bench.on_gpu else min(shape.d_mlp, max(1, int(ON_A_CPU / shape.n_layers / cost)))
    w_u = host.w_u(model).detach()

    def ours() -> Tensor:
        if per_layer == shape.d_mlp:
            return torch.cat([found.tokens for _, found in decode_layers(model)])
        parts = [
            search_vocabulary(
                host.w_out(model, layer)[:per_layer], lambda a, b: w_u[:, a:b].float(), shape.d_vocab, top_k=10
            ).tokens
            for layer in range(shape.n_layers)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def whole_layers() -> Tensor:
        head = bench.plain.lm_head.weight.float().T
        return torch.cat(
            [(b.mlp.fc_out.weight.T[:per_layer].float() @ head).topk(10).indices for b in bench.plain.transformer.h]
        )

    timings, differences, absent = compare(
        bench, {OURS: ours, "whole product of a layer": whole_layers}, same=_other_tokens, tolerance=1e-3
    )
    peaks = {}
    for name, run in ((OURS, ours), ("whole product of a layer", whole_layers)):
        before = reset_peak(bench.device)
        run()
        peaks[name] = round((peak(bench.device) - before) / 2**20, 1)
    n = shape.n_layers * per_layer
    return [
        Figure(
            name="decoding",
            work=f"{n:,} of {shape.n_neurons:,} neurons against {shape.d_vocab:,} tokens, in float32",
            timings=timings,
            floor=decoding(shape, n),
            differences=differences,
            absent=absent,
            more={
                "peak beyond what was there, MB": peaks,
                "seconds for all neurons": timings[OURS].median / n * shape.n_neurons,
                "difference": "share of tokens that differ (ties within rounding)",
            },
        )
    ]


def _other_tokens(ours: Tensor, theirs: Tensor) -> float:
    return float((ours != theirs).float().mean())
